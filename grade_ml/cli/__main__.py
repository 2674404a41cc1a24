"""`python -m grade_ml.cli`, the same as `grade-ml`."""

from grade_ml.cli import main

if __name__ == "__main__":
    main()
