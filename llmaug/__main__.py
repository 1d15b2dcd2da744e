"""`python -m llmaug` is the `llmaug` command."""

from llmaug.cli.app import main

if __name__ == "__main__":
    main()
