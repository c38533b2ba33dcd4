"""The gunicorn package that Python code imports."""
