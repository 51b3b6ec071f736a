"""``python -m perfdoc``."""

from perfdoc.cli import main

if __name__ == "__main__":
    main()
