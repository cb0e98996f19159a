from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from portal.subscriptions.models import Product
from portal.support import words
from portal.support.models import Platform


class TicketForm(forms.Form):
    # Characters and lengths are judged in words.py; the widgets only help.
    subject = forms.CharField(
        label=_("Subject"), required=False, widget=forms.TextInput(attrs={"required": True, "maxlength": words.SUBJECT})
    )
    product = forms.ModelChoiceField(
        Product.objects.order_by("name"), label=_("Product"), required=False, empty_label="—"
    )
    platform = forms.ChoiceField(
        label=_("Where does it happen?"), choices=[("", "—"), *Platform.choices], required=False
    )
    text = forms.CharField(
        label=_("What happened, and what did you expect?"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"required": True, "rows": 8, "maxlength": words.TEXT}),
    )


class MessageForm(forms.Form):
    text = forms.CharField(
        label=_("Your message"),
        required=False,
        strip=False,
        widget=forms.Textarea(attrs={"required": True, "rows": 6, "maxlength": words.TEXT}),
    )
