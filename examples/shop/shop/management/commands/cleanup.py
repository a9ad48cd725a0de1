"""`manage.py cleanup`: forget sessions that have ended, and orders shipped a month ago."""

from datetime import timedelta

from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.utils import timezone

from shop.models import Order


class Command(BaseCommand):
    """Runs each hour (app.toml)."""

    help = "Remove ended sessions, and orders that were shipped more than 30 days ago."

    def handle(self, *args, **options) -> None:
        call_command("clearsessions")
        gone, _ = Order.objects.filter(shipped_at__lt=timezone.now() - timedelta(days=30)).delete()
        self.stdout.write(f"removed {gone} orders")
