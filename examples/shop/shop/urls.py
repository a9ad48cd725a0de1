"""The paths of the shop."""

from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("", views.index),
    path("order/<int:article>", views.order),
    path("orders", views.orders),
    path("ready", views.ready),
    path("admin/", admin.site.urls),
]
