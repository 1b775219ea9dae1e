"""The command line of the report stage."""

from components.cli import main
from components.report.stage import run

if __name__ == "__main__":
    main(run)
