"""`python -m cnnjax` is the command line."""

from cnnjax.cli.main import main

if __name__ == "__main__":
    main()
