"""The command line: python -m lessons_lib train | sample | evaluate …"""

from __future__ import annotations
