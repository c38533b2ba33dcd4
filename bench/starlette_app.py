"""The framework beneath FastAPI: a route that answers with JSON."""

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def item(request):
    return JSONResponse({"id": 1, "name": "hello", "price": 9.5})


app = Starlette(routes=[Route("/", item)])
