"""Articles and orders in Django's admin."""

from django.contrib import admin

from shop.models import Article, Order

admin.site.register(Article)
admin.site.register(Order, list_display=("id", "article", "ordered_at", "shipped_at"))
