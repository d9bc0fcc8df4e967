"""The command as `python -m reference`."""

from reference.command.main import run

if __name__ == "__main__":
    run()
