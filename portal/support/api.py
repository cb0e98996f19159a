"""`/api/v1`: requests to support with their files, and the help."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.http import FileResponse, Http404, HttpRequest
from django.utils.translation import gettext as _
from ninja import File, Form, Path, Query, Router, Schema, Status
from ninja.errors import HttpError
from ninja.files import UploadedFile
from pydantic import Field, StrictBool

from portal.api import limits
from portal.api.problems import Problem
from portal.subscriptions.models import Product
from portal.support import attachments, help_pages, tickets, views, words
from portal.support.models import Ticket

router = Router(tags=["support"])
Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
REFUSED = {400: Problem, 429: Problem}


class FileOut(Schema):
    id: int
    name: str
    size: int
    sha256: str


class MessageOut(Schema):
    by: str = Field(description="support, or you")
    at: datetime
    text: str
    files: list[FileOut]


class HappeningOut(Schema):
    what: str
    at: datetime


class RequestOut(Schema):
    number: int
    subject: str
    product: str = Field(description="Its slug; empty: none was named")
    platform: str
    status: str = Field(description="open, waiting (for you), answered or closed")
    created_at: datetime
    updated_at: datetime


class WholeRequest(RequestOut):
    messages: list[MessageOut]
    history: list[HappeningOut]


class NewRequest(Schema):
    subject: str = Field(max_length=words.SUBJECT, examples=["It does not connect in a train"])
    text: str = Field(max_length=words.TEXT, examples=["Since this morning."])
    product: str = Field("", max_length=50, description="The slug of a product")
    platform: str = Field("", max_length=16, description="linux, macos, windows, android, ios or other")


class NewMessage(Schema):
    text: str = Field(max_length=words.TEXT)


class HelpOut(Schema):
    slug: str
    language: str
    title: str
    excerpt: str


class HelpPage(Schema):
    slug: str
    language: str
    title: str
    markdown: str


class Helpful(Schema):
    helpful: StrictBool
    comment: str = Field("", max_length=1000)


class Counted(Schema):
    counted: bool = True


def brief(ticket: Ticket) -> dict[str, Any]:
    return {
        "number": ticket.pk,
        "subject": ticket.subject,
        "product": ticket.product.slug if ticket.product else "",
        "platform": ticket.platform,
        "status": ticket.status,
        "created_at": ticket.created_at,
        "updated_at": ticket.updated_at,
    }


def whole(ticket: Ticket) -> dict[str, Any]:
    return brief(ticket) | {
        "messages": [
            {
                "by": "support" if each.staff else "you",
                "at": each.at,
                "text": each.text,
                "files": [
                    {"id": file.pk, "name": file.name, "size": file.size, "sha256": file.sha256}
                    for file in each.attachments.all()
                ],
            }
            for each in ticket.messages.prefetch_related("attachments")
        ],
        "history": [{"what": each.what, "at": each.at} for each in ticket.events.all()],
    }


def _files(request: HttpRequest) -> list[Any]:
    if "files" in request.POST:
        raise HttpError(400, "files: send files, not text.")
    return attachments.uploaded(request)


@router.get("/support/requests", response=list[RequestOut], summary="Own requests")
def requests(request: HttpRequest) -> Any:
    """The 200 that changed last."""
    user: Any = request.user
    return [brief(each) for each in user.tickets.select_related("product")[:200]]


@router.post("/support/requests", response={201: WholeRequest, **REFUSED}, summary="Write to support")
def open_request(request: HttpRequest, given: Form[NewRequest], files: File[list[UploadedFile]] = []) -> Any:  # noqa: B006
    """As a form (multipart/form-data), for files may come with it: the report of an application, for one."""
    user: Any = request.user
    product = Product.objects.filter(slug=given.product).first() if given.product else None
    if given.product and product is None:
        raise ValidationError(_("This product is not known here."), "product_unknown")
    made = tickets.open_ticket(
        user,
        given.subject,
        given.text,
        views.origin(request),
        product=product,
        platform=given.platform,
        files=_files(request),
    )
    return Status(201, whole(made))


@router.get("/support/requests/{number}", response={200: WholeRequest, 404: Problem}, summary="One request")
def one_request(request: HttpRequest, number: Number) -> Any:
    """With everything that was written, and its history."""
    return whole(views.of(request, number))


@router.post(
    "/support/requests/{number}/messages",
    response={201: WholeRequest, 404: Problem, **REFUSED},
    summary="Write more",
)
def write(request: HttpRequest, number: Number, given: Form[NewMessage], files: File[list[UploadedFile]] = []) -> Any:  # noqa: B006
    """The request is open again, whatever it was. As a form, like a new request."""
    found = views.of(request, number)
    tickets.write(found, given.text, views.origin(request), files=_files(request))
    return Status(201, whole(found))


@router.post("/support/requests/{number}/close", response={200: WholeRequest, 404: Problem}, summary="Close a request")
def close_request(request: HttpRequest, number: Number) -> Any:
    user: Any = request.user
    tickets.close(views.of(request, number), user)
    return whole(views.of(request, number))


@router.post(
    "/support/requests/{number}/reopen", response={200: WholeRequest, 404: Problem}, summary="Open a closed one again"
)
def reopen_request(request: HttpRequest, number: Number) -> Any:
    user: Any = request.user
    tickets.reopen(views.of(request, number), user)
    return whole(views.of(request, number))


@router.get(
    "/support/files/{number}",
    response={404: Problem},
    summary="A file of a request",
    openapi_extra={
        "responses": {
            200: {
                "description": "Its bytes",
                "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
            }
        }
    },
)
def request_file(request: HttpRequest, number: Number) -> FileResponse:
    try:
        return attachments.download(views.attachment_of(request.user, number))
    except FileNotFoundError as err:
        raise Http404 from err


@router.get("/help", response=list[HelpOut], auth=None, summary="Help pages")
def help_list(request: HttpRequest, q: Annotated[str, Query(max_length=help_pages.MOST_QUERY)] = "") -> Any:
    """Those with every word of `q`, in the language of Accept-Language as far as it is translated."""
    return [
        {"slug": each.slug, "language": each.language, "title": each.title, "excerpt": help_pages.excerpt(each, q)}
        for each in help_pages.search(q)
    ]


@router.get("/help/{slug}", response={200: HelpPage, 404: Problem}, auth=None, summary="One help page")
def help_page(request: HttpRequest, slug: str) -> Any:
    return views.help_of(slug)


@router.put(
    "/help/{slug}/verdict",
    response={200: Counted, 404: Problem, **REFUSED},
    summary="Was this helpful?",
)
def help_verdict(request: HttpRequest, slug: str, given: Helpful) -> Any:
    """One of an account and page: another one takes its place."""
    found = views.help_of(slug)
    limits.take("verdict", request, 60)
    comment = words.line(" ".join(given.comment.split()), 1000) if given.comment.strip() else ""
    help_pages.vote(found, f"account {request.user.pk}", given.helpful, comment)
    return Counted()
