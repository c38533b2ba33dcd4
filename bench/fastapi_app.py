"""What is behind most endpoints of an API: a small model that goes out as JSON."""

from fastapi import FastAPI
from pydantic import BaseModel


class Item(BaseModel):
    id: int
    name: str
    price: float
    tags: list[str]


app = FastAPI()


@app.get("/")
async def item() -> Item:
    return Item(id=1, name="hello", price=9.5, tags=["small", "blue"])
