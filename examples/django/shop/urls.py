"""One view: it stores an order and enqueues its confirmation, both or neither."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from .jobs import confirm_on_commit
from .models import Order


@csrf_exempt
@transaction.atomic
def orders(request: HttpRequest) -> JsonResponse:
    order = Order.objects.create(email=request.POST["email"])
    confirm_on_commit(order)
    if "fail" in request.POST:
        raise ValueError("the transaction is rolled back, and there is no job")
    return JsonResponse({"order": order.pk}, status=201)


urlpatterns = [path("orders", orders)]
