"""P8, P9, B1-B8: codes, terms, reserve, renewal, grace, sharing and seats."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts.models import User
from portal.subscriptions import codes, redemption, sharing
from portal.subscriptions.models import ActivationCode, Plan, Product, Seat, State, Subscription, Term
from portal.subscriptions.payments import Renewal

DAY = timedelta(days=1)


@pytest.fixture
def vpn() -> Plan:
    product = Product.objects.create(slug="vpn", name="VPN", shareable=False)
    return Plan.objects.create(product=product, slug="vpn-year", name="One year", days=365, seats=5)


@pytest.fixture
def suite() -> Plan:
    product = Product.objects.create(slug="suite", name="Suite", shareable=True)
    return Plan.objects.create(product=product, slug="suite-month", name="One month", days=30, seats=2)


def code(plan: Plan) -> str:
    return redemption.make(plan, 1, "test")[0]


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        call(*arguments)
    return str(caught.value.code)


def later(subscription: Subscription, by: timedelta) -> None:
    """Lets time pass for a subscription."""
    for term in subscription.terms.all():
        Term.objects.filter(pk=term.pk).update(starts_at=term.starts_at - by, ends_at=term.ends_at - by)


def test_form_of_codes() -> None:
    """P8: four groups of five, no two look alike, each another one; only digests are kept."""
    made = [codes.new() for _each in range(500)]
    assert len(set(made)) == 500
    assert all(re.fullmatch(r"[2-9A-HJ-NP-Z]{5}(-[2-9A-HJ-NP-Z]{5}){3}", each) for each in made)
    assert all(codes.parse(f"  {each.lower().replace('-', ' ')} ") == each for each in made)


@given(st.integers(0, 19), st.integers(1, 31), st.randoms())
def test_a_wrong_character_is_found(at: int, by: int, random: Any) -> None:
    """P8: every single wrong character."""
    bare = codes.new().replace("-", "")
    wrong = codes.ALPHABET[(codes.ALPHABET.index(bare[at]) + by) % 32]
    with pytest.raises(codes.MalformedCode):
        codes.parse(bare[:at] + wrong + bare[at + 1 :])


@given(st.integers(0, 17), st.integers(0, 17))
def test_swapped_characters_are_found(one: int, other: int) -> None:
    """P8: any two of the random ones in each other's place."""
    bare = list(codes.new().replace("-", ""))
    if bare[one] == bare[other]:
        return
    bare[one], bare[other] = bare[other], bare[one]
    with pytest.raises(codes.MalformedCode):
        codes.parse("".join(bare))


@pytest.mark.parametrize(
    "text", ["", "ABCDE", "0" * 20, "O" * 20, "ABCDE-FGHJK-LMNPQ-RSTUV-W", "Ä" * 20, "\0" * 20, "２" * 20]
)
def test_what_is_no_code(text: str, vpn: Plan, new_user: Callable[..., User]) -> None:
    assert refused(redemption.redeem, new_user(), text) == "code_malformed"


def test_bulk_codes(vpn: Plan) -> None:
    """P8: staff makes them; what is kept does not tell them."""
    out = StringIO()
    call_command("make_codes", "vpn-year", "120", "--batch", "spring", stdout=out)
    made = out.getvalue().split()
    assert len(made) == 120 == ActivationCode.objects.filter(batch="spring").count()
    assert set(ActivationCode.objects.values_list("digest", flat=True)) == {codes.digest(each) for each in made}
    for arguments in (("nothing", "1"), ("vpn-year", "0")):
        with pytest.raises(CommandError):
            call_command("make_codes", *arguments, stdout=out)


def test_term_begins_with_the_first_activation(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: however long the code lay about."""
    text = code(vpn)
    ActivationCode.objects.update(created_at=timezone.now() - 900 * DAY)
    subscription, outcome = redemption.redeem(new_user(), text)
    assert outcome is redemption.Outcome.ACTIVATED
    assert subscription.state() is State.ACTIVE
    assert subscription.days_left() == 365
    assert subscription.seats_left() == 5


def test_reserve_starts_by_itself(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: terms follow one another without a gap, also of another plan; nobody has to do anything."""
    month = Plan.objects.create(product=vpn.product, slug="vpn-month", name="One month", days=30, seats=1)
    user = new_user()
    subscription, _outcome = redemption.redeem(user, code(month))
    assert redemption.redeem(user, code(vpn))[1] is redemption.Outcome.RESERVED
    assert [each.plan.slug for each in subscription.reserves()] == ["vpn-year"]
    assert (subscription.days_left(), subscription.seats()) == (395, 1)
    first, second = subscription.terms.all()
    assert first.ends_at == second.starts_at
    later(subscription, 30 * DAY + timedelta(minutes=1))
    assert (subscription.state(), subscription.seats()) == (State.ACTIVE, 5)
    assert not subscription.reserves()


def test_grace_and_expiry(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: seven days of grace, then nothing; a new code starts from now, not from the old end."""
    user = new_user()
    subscription, _outcome = redemption.redeem(user, code(vpn))
    end = subscription.ends_at()
    assert end is not None
    moments = (end - timedelta(seconds=1), end, end + 7 * DAY - timedelta(seconds=1), end + 7 * DAY)
    assert [subscription.state(at) for at in moments] == [State.ACTIVE, State.GRACE, State.GRACE, State.EXPIRED]
    later(subscription, 400 * DAY)
    assert (subscription.state(), subscription.days_left(), subscription.seats()) == (State.EXPIRED, 0, 0)
    redemption.redeem(user, code(vpn))
    assert (subscription.state(), subscription.days_left()) == (State.ACTIVE, 365)


def test_code_is_used_once(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: by its account again nothing happens; by another it is refused."""
    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    text = code(vpn)
    redemption.redeem(ann, text)
    assert redemption.redeem(ann, text)[1] is redemption.Outcome.UNCHANGED
    assert refused(redemption.redeem, bob, text) == "code_used"
    assert refused(redemption.redeem, bob, codes.new()) == "code_unknown"
    assert Term.objects.count() == 1
    assert not bob.subscriptions.exists()


class PaidShop:
    """A shop that took one renewal which never arrived here."""

    def renewals(self, code_digest: str) -> list[Renewal]:
        return [Renewal("payment-1", "vpn-year")]


def test_adding_the_code_again_brings_the_renewal(vpn: Plan, new_user: Callable[..., User], monkeypatch: Any) -> None:
    """B3: once, however often it is added."""
    monkeypatch.setattr("portal.subscriptions.payments.NoShop", PaidShop)
    user, text = new_user(), code(vpn)
    subscription, _outcome = redemption.redeem(user, text)
    later(subscription, 400 * DAY)
    assert subscription.state() is State.EXPIRED
    assert redemption.redeem(user, text)[1] is redemption.Outcome.RENEWED
    assert subscription.state() is State.ACTIVE
    assert redemption.redeem(user, text)[1] is redemption.Outcome.UNCHANGED
    assert subscription.terms.count() == 2


def test_simultaneous_redemption(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: 1,000 tries of one code by 20 accounts: one wins, and everybody gets an answer."""
    from django.db import connections

    users = [new_user(f"user{number}@example.org") for number in range(20)]
    text = code(vpn)

    def once(number: int) -> str:
        try:
            return redemption.redeem(users[number % 20], text)[1].value
        except ValidationError as err:
            return str(err.code)

    def many(worker: int) -> list[str]:
        try:
            return [once(worker * 125 + number) for number in range(125)]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        said = [each for part in pool.map(many, range(8)) for each in part]
    assert len(said) == 1000
    assert said.count("activated") == 1
    assert set(said) == {"activated", "code_used", "unchanged"}
    # The winner's own further tries change nothing.
    assert said.count("unchanged") == 49
    assert (Term.objects.count(), Subscription.objects.count()) == (1, 1)


def test_simultaneous_codes_of_one_account(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: twelve codes at once are twelve terms, none over another."""
    from django.db import connections

    user, texts = new_user(), redemption.make(vpn, 12, "")

    def once(text: str) -> None:
        try:
            redemption.redeem(user, text)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(once, texts))
    terms = list(Term.objects.all())
    assert len(terms) == 12
    assert all(one.ends_at == next_one.starts_at for one, next_one in itertools.pairwise(terms))


def test_guessing_codes_is_limited(door: Any, vpn: Plan, new_user: Callable[..., User]) -> None:
    """P8: after three wrong ones of an account even a right one waits."""
    door.sign_in(new_user().email)

    def add(text: str) -> str:
        if door.name == "api":
            answer = door.call("post", "/api/v1/subscriptions/redeem", {"code": text}).json()
            return str(answer.get("outcome") or answer["code"])
        response = door.client.post("/subscriptions/", {"code": text})
        return "activated" if response.status_code == 302 else str(response.context["error"].code)

    assert [add(codes.new()) for _try in range(4)] == ["code_unknown"] * 3 + ["too_many_tries"]
    assert add(code(vpn)) == "too_many_tries"


def test_panel(web: Any, app: Any, vpn: Plan, suite: Plan, new_user: Callable[..., User]) -> None:
    """B1, B7: own and shared ones, with state, days and seats; a code is added there."""
    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    web.sign_in(ann.email)
    assert web.client.post("/subscriptions/", {"code": code(vpn)}).status_code == 302
    shared, _outcome = redemption.redeem(bob, code(suite))
    sharing.invite(shared, ann.email, "Bob", "https://portal.example")
    token = re.findall(r"/invitations/(\S+)/", mail.outbox[-1].body)[0]
    sharing.accept(ann, token)
    page = web.client.get("/subscriptions/").content.decode()
    for words in ("VPN", "365 days left", "5 of 5 seats free", "Shared with you by Bob", "30 days left"):
        assert words in page
    app.sign_in(ann.email)
    found = app.call("get", "/api/v1/subscriptions").json()
    assert [(each["product"], each["own"], each["state"], each["shared_with"]) for each in found] == [
        ("vpn", True, "active", []), ("suite", False, "active", [])
    ]  # fmt: skip


def invited(subscription: Subscription, email: str) -> str:
    sharing.invite(subscription, email, "Ann", "https://portal.example")
    return str(re.findall(r"https://portal.example/subscriptions/invitations/(\S+)/", mail.outbox[-1].body)[0])


def test_vpn_is_never_shared(web: Any, app: Any, vpn: Plan, new_user: Callable[..., User]) -> None:
    """B4, P9: neither offered, nor accepted when asked; only its holder takes seats."""
    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    subscription, _outcome = redemption.redeem(ann, code(vpn))
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    path = f"/subscriptions/{subscription.pk}/"
    assert 'name="email"' not in web.client.get(path).content.decode()
    assert web.client.post(path, {"email": bob.email}).context["error"].code == "not_shareable"
    answer = app.call("post", f"/api/v1/subscriptions/{subscription.pk}/shares", {"email": bob.email, "name": "Ann"})
    assert (answer.status_code, answer.json()["code"]) == (400, "not_shareable")
    assert mail.outbox == []
    # Not even a row that should not exist gives a right.
    subscription.shares.create(email=bob.email, digest="x", recipient=bob, accepted_at=timezone.now())
    assert refused(sharing.take_seat, bob, subscription, "laptop") == "not_holder"


def test_sharing(suite: Plan, new_user: Callable[..., User]) -> None:
    """P9: accepted by the invited e-mail alone, confirmed; revoked, its seats are free."""
    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    eve, new = new_user("eve@example.org"), new_user("new@example.org", verified=False)
    subscription, _outcome = redemption.redeem(ann, code(suite))
    token = invited(subscription, bob.email)
    assert refused(sharing.take_seat, bob, subscription, "phone") == "not_holder"
    assert refused(sharing.accept, eve, token) == "invitation_other"
    assert refused(sharing.accept, new, invited(subscription, new.email)) == "email_unconfirmed"
    assert refused(sharing.accept, bob, "nonsense") == "invitation_gone"
    sharing.accept(bob, token)
    sharing.accept(bob, token)
    assert sharing.take_seat(bob, subscription, "phone").device == "phone"
    assert subscription.seats_left() == 1
    assert refused(sharing.invite, subscription, bob.email, "Ann", "https://portal.example") == "already_shared"
    assert refused(sharing.invite, subscription, ann.email, "Ann", "https://portal.example") == "own_email"
    assert refused(sharing.invite, subscription, "no e-mail", "Ann", "https://portal.example") == "invalid"
    sharing.revoke(ann, bob.shares.get().pk)
    assert subscription.seats_left() == 2
    assert refused(sharing.take_seat, bob, subscription, "phone") == "not_holder"
    assert refused(sharing.accept, bob, token) == "invitation_gone"


def test_seats(suite: Plan, new_user: Callable[..., User]) -> None:
    """B2, P9: no more than there are, also when many ask at once; an expired subscription has none."""
    from django.db import connections

    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    subscription, _outcome = redemption.redeem(ann, code(suite))

    def take(number: int) -> str:
        try:
            return sharing.take_seat(ann, subscription, f"device {number}").device
        except ValidationError as err:
            return str(err.code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(take, range(12)))
    assert said.count("no_seat") == 10
    seat = Seat.objects.first()
    assert seat is not None
    assert sharing.take_seat(ann, subscription, seat.device) == seat
    with pytest.raises(Seat.DoesNotExist):
        sharing.release_seat(bob, seat.pk)
    sharing.release_seat(ann, seat.pk)
    assert subscription.seats_left() == 1
    later(subscription, 400 * DAY)
    assert refused(sharing.take_seat, ann, subscription, "new") == "not_active"
    assert refused(sharing.invite, subscription, bob.email, "Ann", "https://portal.example") == "not_active"


def test_what_belongs_to_others(web: Any, app: Any, suite: Plan, new_user: Callable[..., User]) -> None:
    """P9: neither seen nor changed: there is no such thing."""
    ann, eve = new_user("ann@example.org"), new_user("eve@example.org")
    subscription, _outcome = redemption.redeem(ann, code(suite))
    invited(subscription, "bob@example.org")
    share = subscription.shares.get()
    seat = sharing.take_seat(ann, subscription, "laptop")
    web.sign_in(eve.email)
    app.sign_in(eve.email)
    assert web.client.get(f"/subscriptions/{subscription.pk}/").status_code == 404
    assert web.client.post(f"/subscriptions/shares/{share.pk}/revoke/").status_code == 404
    assert web.client.post(f"/subscriptions/seats/{seat.pk}/release/").status_code == 404
    answer = app.call("delete", f"/api/v1/subscriptions/shares/{share.pk}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert subscription.shares.exists() and subscription.taken.exists()


def test_support_moves_a_subscription(web: Any, vpn: Plan, new_user: Callable[..., User]) -> None:
    """B5, P9: to the account it should be in, with an entry that stays; the code goes with it."""
    wrong, right = new_user("wrong@example.org"), new_user("right@example.org")
    text = code(vpn)
    subscription, _outcome = redemption.redeem(wrong, text)
    staff = User.objects.create_superuser("staff@example.org", "Blue7kettle")
    path = f"/staff/subscriptions/subscription/{subscription.pk}/move/"
    web.client.force_login(right)
    assert web.client.post(path, {"email": right.email, "reason": "mine"}).status_code == 302
    subscription.refresh_from_db()
    assert subscription.owner == wrong
    web.client.force_login(staff)
    assert "move/" in web.client.get(f"/staff/subscriptions/subscription/{subscription.pk}/change/").content.decode()
    assert web.client.post(path, {"email": "nobody@example.org", "reason": "ticket 7"}).context["form"].errors
    assert web.client.post(path, {"email": right.email, "reason": "ticket 7"}).status_code == 302
    subscription.refresh_from_db()
    assert subscription.owner == right
    entry = subscription.moves.get()
    assert (entry.from_email, entry.to_email, entry.by, entry.reason) == (wrong.email, right.email, staff, "ticket 7")
    assert redemption.redeem(right, text)[1] is redemption.Outcome.UNCHANGED
    assert refused(redemption.redeem, wrong, text) == "code_used"


def test_reminders(vpn: Plan, suite: Plan, new_user: Callable[..., User]) -> None:
    """P8: 30, 7 and 1 days before the last end, once each by a daily run; a reserve code moves the end."""
    ann, bob = new_user("ann@example.org"), new_user("bob@example.org")
    subscription, _outcome = redemption.redeem(ann, code(vpn))
    reserved, _outcome = redemption.redeem(bob, code(suite))
    redemption.redeem(bob, code(suite))
    sent = []
    for day in range(366):
        mail.outbox.clear()  # type: ignore[attr-defined]
        if day >= 330 or day < 31:
            call_command("remind", "--origin", "https://portal.example", stdout=StringIO())
            sent += [(day, each.to[0], each.subject) for each in mail.outbox if each.to == ["ann@example.org"]]
            if day == 0:
                assert [each.to for each in mail.outbox] == []
        later(subscription, DAY)
        if day == 0:
            later(reserved, timedelta())
    assert [(day, subject) for day, _to, subject in sent] == [
        (335, "VPN ends in 30 days"), (358, "VPN ends in 7 days"), (364, "VPN ends in 1 day")
    ]  # fmt: skip
