"""The command line of the evaluate stage."""

from components.cli import main
from components.evaluate.stage import run

if __name__ == "__main__":
    main(run)
