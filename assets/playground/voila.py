"""voila's settings for the playground; `python lab.py playground` points voila here."""

c = get_config()  # noqa: F821
c.VoilaConfiguration.template = "playground"  # found on JUPYTER_PATH, which lab.py sets
# A panel appears when it is ready, not when all are.
c.VoilaConfiguration.progressive_rendering = True
# While cells run, voila hears no answer to its pings. After the usual 90 s it would hang up, and a slow
# machine would get no more panels.
c.Voila.tornado_settings = {"ws_ping_timeout": 3_600_000}
c.VoilaExecutor.cell_error_instruction = "This part of the page could not start; the terminal says why."
