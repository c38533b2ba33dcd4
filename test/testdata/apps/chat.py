"""A chat of Django and Channels in one file: a form for one's name, a page,
and a consumer in a group of the layer in memory."""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="not a secret: the chat of a test",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.sessions", "channels"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware",
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware"],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    USE_TZ=True,
)
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from channels.sessions import SessionMiddlewareStack  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.shortcuts import redirect  # noqa: E402
from django.template import RequestContext, Template  # noqa: E402
from django.urls import path  # noqa: E402

LOGIN = Template("""<!doctype html><title>Who are you?</title><link rel="icon" href="data:,">
<form method="post">{% csrf_token %}<input id="name" name="name"><button>Enter</button></form>
""")
ROOM = Template("""<!doctype html><title>Chat</title><link rel="icon" href="data:,">
<h1>{{ name }}</h1><p id="state">connecting</p><ul id="said"></ul>
<form id="form"><input id="words" autocomplete="off"><button>Say</button></form>
<script>
const state = document.getElementById("state"), words = document.getElementById("words")
const socket = new WebSocket(`ws://${location.host}/ws/chat/`)
socket.onopen = () => state.textContent = "open"
socket.onclose = e => state.textContent = `closed ${e.code} ${e.wasClean}`
socket.onmessage = e => {
  const item = document.createElement("li"), {name, words} = JSON.parse(e.data)
  item.textContent = `${name}: ${words}`
  document.getElementById("said").append(item)
}
document.getElementById("form").onsubmit = e => {
  e.preventDefault()
  socket.send(JSON.stringify({words: words.value}))
  words.value = ""
}
</script>
""")


async def enter(request):
    if request.method == "POST":
        request.session["name"] = request.POST["name"]
        return redirect("/room/")
    return HttpResponse(LOGIN.render(RequestContext(request)))


def room(request):
    return HttpResponse(ROOM.render(RequestContext(request, {"name": request.session["name"]})))


urlpatterns = [path("", enter), path("room/", room)]


class Chat(AsyncJsonWebsocketConsumer):
    groups = ["everybody"]

    async def connect(self):
        self.name = self.scope["session"].get("name")
        if self.name is None:
            await self.close()
            return
        await self.accept()
        await self.tell("enters")

    async def disconnect(self, code):
        if self.name is not None:
            await self.tell("leaves (%s)" % code)

    async def receive_json(self, content):
        await self.tell(content["words"])

    async def tell(self, words):
        await self.channel_layer.group_send("everybody", {"type": "say", "name": self.name, "words": words})

    async def say(self, event):
        await self.send_json({"name": event["name"], "words": event["words"]})


application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": AllowedHostsOriginValidator(SessionMiddlewareStack(URLRouter([path("ws/chat/", Chat.as_asgi())]))),
})
