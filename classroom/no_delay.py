"""A part of JupyterLab's server: a kernel's answers leave at once, for a picture that follows a slider.

Else TCP gathers small packets (Nagle's algorithm) and waits some 40 ms for the page's acknowledgement.
"""

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "classroom.no_delay"}]


def _load_jupyter_server_extension(_server) -> None:
    opened = KernelWebsocketHandler.open

    async def open_without_delay(self, kernel_id: str) -> None:
        self.set_nodelay(True)
        await opened(self, kernel_id)

    KernelWebsocketHandler.open = open_without_delay
