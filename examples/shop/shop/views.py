"""The pages of the shop."""

from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from shop.models import Article, Order


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    """What there is."""
    return render(request, "shop/index.html", {"articles": Article.objects.order_by("name")})


@require_POST
def order(request: HttpRequest, article: int) -> HttpResponse:
    """Order one piece; the worker ships it."""
    Order.objects.create(article=get_object_or_404(Article, pk=article))
    return redirect("/orders")


@require_safe
def orders(request: HttpRequest) -> HttpResponse:
    """How many orders there are, and how many wait for the worker."""
    waiting = Order.objects.filter(shipped_at=None).count()
    return JsonResponse({"orders": Order.objects.count(), "waiting": waiting})


@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """Whether the database can be read and has the tables of this release."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM shop_order WHERE shipped_at IS NULL")
    return HttpResponse("ready\n", content_type="text/plain")
