"""A small JSON answer of the framework that its users choose for speed."""

import falcon


class Item:
    def on_get(self, request, response):
        response.media = {"id": 1, "name": "hello", "price": 9.5}


app = falcon.App()
app.add_route("/", Item())
