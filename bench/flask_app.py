"""The same in a framework that people use."""

from flask import Flask

app = Flask(__name__)


@app.get("/")
def hello():
    return "Hello, World!\n"
