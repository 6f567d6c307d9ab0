"""``python -m brolly`` is the command line."""

from brolly.cli import main

if __name__ == "__main__":
    main()
