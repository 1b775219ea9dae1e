"""The command line of the merge stage."""

from components.cli import main
from components.merge.stage import run

if __name__ == "__main__":
    main(run)
