"""Small gradebooks for tests of tasks; those of orchestration's tests."""

from grade_ml_tests.orchestration.conftest import add_courses, one_of_each

__all__ = ["add_courses", "one_of_each"]
