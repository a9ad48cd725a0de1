"""What is sold, and what was ordered."""

from django.db import models


class Article(models.Model):
    """Something that can be ordered."""

    name = models.CharField(max_length=100, unique=True)
    price = models.DecimalField(max_digits=8, decimal_places=2)

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """One piece of an article; the worker ships it."""

    article = models.ForeignKey(Article, on_delete=models.PROTECT)
    ordered_at = models.DateTimeField(auto_now_add=True)
    shipped_at = models.DateTimeField(null=True, blank=True, db_index=True)
