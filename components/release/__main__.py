"""The command line of the release stage."""

from components.cli import main
from components.release.stage import run

if __name__ == "__main__":
    main(run)
