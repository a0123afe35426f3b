"""python -m lessons_lib …"""

import sys

from lessons_lib.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
