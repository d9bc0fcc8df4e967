"""The command as `python -m reference`."""

import sys

from reference.command.main import main

if __name__ == "__main__":
    sys.exit(main())
