"""python -m gunicorn: becomes the server, which runs the application by this Python."""

from _gunicorn.program import main

if __name__ == "__main__":
    main()
