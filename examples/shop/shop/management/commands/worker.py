"""`manage.py worker`: ship what was ordered, until SIGTERM."""

import logging
import signal
import threading

from django.core.management.base import BaseCommand
from django.utils import timezone

from shop.models import Order

log = logging.getLogger("shop.worker")


class Command(BaseCommand):
    """Looks for orders each second; an order is shipped once, whatever ends the worker."""

    help = "Ship orders until SIGTERM."

    def add_arguments(self, parser) -> None:
        parser.add_argument("--once", action="store_true", help="ship what waits, and end")

    def handle(self, *args, once: bool = False, **options) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        while True:
            for order in Order.objects.filter(shipped_at=None).order_by("id")[:100]:
                Order.objects.filter(pk=order.pk, shipped_at=None).update(shipped_at=timezone.now())
                log.info("shipped order %d", order.pk)
            if once or stop.wait(1):
                return
