"""P3, A7, A10: characters from an image after repeated failures, at both doors, however many try at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from captcha.models import CaptchaStore
from django.core.exceptions import ValidationError
from django.test import RequestFactory
from django.utils import timezone

from portal.accounts import attempts, captcha
from portal.accounts.models import Failure, User

WRONG = "Red7kettle"
Solved = Callable[[], tuple[str, str]]


def test_after_three_wrong_passwords(door: Any, new_user: Callable[..., User], solved: Solved) -> None:
    """A7: then even the right one needs the characters, and with them it is right."""
    new_user("ann@example.org")
    for _try in range(3):
        assert door.sign_in("ann@example.org", WRONG).every() == {"email_password_mismatch"}
    refused = door.sign_in("ann@example.org")
    assert refused.every() == {"captcha_required"}
    assert not door.signed_in()
    assert door.sign_in("ann@example.org", **door.captcha(*solved())).codes == {}
    assert door.signed_in()
    door.sign_out()
    # A success forgets the account's failures.
    assert door.sign_in("ann@example.org", WRONG).every() == {"email_password_mismatch"}


def test_page_shows_the_image(web: Any, new_user: Callable[..., User]) -> None:
    """A7: with a text for who does not see it, and a spoken one where the server can speak."""
    new_user("ann@example.org")
    for _try in range(3):
        page = web.sign_in("ann@example.org", WRONG).raw
    page = web.sign_in("ann@example.org").raw.content.decode()
    key = CaptchaStore.objects.latest("pk").hashkey
    assert f'<img class="captcha" src="/captcha/{key}/image/"' in page
    image = web.client.get(f"/captcha/{key}/image/")
    assert image.headers["Content-Type"] == "image/png"
    assert image.content.startswith(b"\x89PNG")
    answer = CaptchaStore.objects.get(hashkey=key).response
    assert web.sign_in("ann@example.org", captcha_key=key, captcha_answer=answer.upper()).codes == {}


@pytest.mark.skipif(not Path("/usr/bin/flite").exists(), reason="flite is not installed: no audio alternative here")
def test_spoken(web: Any) -> None:
    """A7: the accessible alternative."""
    challenge = captcha.new()
    assert challenge.audio is not None
    response = web.client.get(challenge.audio)
    assert response.headers["Content-Type"] == "audio/wav"
    assert response.content[:4] == b"RIFF" and len(response.content) > 10_000


def test_application_gets_an_image(app: Any) -> None:
    """P3, P7: by the interface."""
    made = app.call("post", "/api/v1/captcha").json()
    assert app.client.get(made["image"]).content.startswith(b"\x89PNG")
    assert CaptchaStore.objects.filter(hashkey=made["key"]).exists()


@pytest.mark.parametrize(
    "email, password, code",
    [
        ("used@example.org", "Blue7kettle", "email_taken"),
        ("not an e-mail", "Blue7kettle", "invalid"),
        ("new@example.org", "Password1", "password_too_common"),
    ],
)
def test_after_three_failed_sign_ups(
    door: Any, new_user: Callable[..., User], solved: Solved, email: str, password: str, code: str
) -> None:
    """A10: a used e-mail, a wrong one, or a too common password; then nothing else is said any more."""
    new_user("used@example.org")
    for _try in range(3):
        assert code in door.sign_up(email, password).every()
    assert door.sign_up(email, password).every() == {"captcha_required"}
    assert code in door.sign_up(email, password, **door.captcha(*solved())).every()
    assert User.objects.count() == 1


def test_forgotten_boxes_do_not_count(door: Any) -> None:
    """A10: only those three do."""
    for _try in range(5):
        assert door.sign_up("ann@example.org", privacy=False).codes == {"privacy": {"required"}}
    assert door.sign_up("ann@example.org").codes == {}


def test_ten_of_one_address(door: Any, new_user: Callable[..., User]) -> None:
    """A7: somebody who tries one password on many accounts; another address is not concerned."""
    new_user("ann@example.org")
    for number in range(10):
        assert door.sign_in(f"user{number}@example.org", WRONG).every() == {"email_password_mismatch"}
    assert door.sign_in("ann@example.org").every() == {"captcha_required"}
    door.client.defaults["REMOTE_ADDR"] = "192.0.2.77"
    assert door.sign_in("ann@example.org").codes == {}


def test_address_is_not_taken_from_a_stranger(door: Any, new_user: Callable[..., User]) -> None:
    """A7: X-Forwarded-For is worth nothing without a trusted proxy."""
    new_user("ann@example.org")
    for number in range(10):
        door.headers["X-Forwarded-For"] = f"198.51.100.{number}"
        door.sign_in(f"user{number}@example.org", WRONG)
    assert door.sign_in("ann@example.org").every() == {"captcha_required"}


def test_guessing_machines(door: Any, new_user: Callable[..., User], solved: Solved) -> None:
    """P3: whoever reads captchas is stopped at twenty times as many failures, before the password is looked at."""
    new_user("ann@example.org")
    for _try in range(3):
        door.sign_in("ann@example.org", WRONG)
    key = attempts.limits("signin", "192.0.2.1", "ann@example.org")[1].key
    Failure.objects.bulk_create([Failure(key=key) for _each in range(57)])
    assert door.sign_in("ann@example.org", **door.captcha(*solved())).every() == {"too_many_login_attempts"}
    Failure.objects.filter(pk=Failure.objects.latest("pk").pk).delete()
    assert door.sign_in("ann@example.org", **door.captcha(*solved())).codes == {}


def test_window(door: Any, new_user: Callable[..., User]) -> None:
    """A7: failures older than fifteen minutes are forgotten, and removed when no window needs them."""
    new_user("ann@example.org")
    for _try in range(3):
        door.sign_in("ann@example.org", WRONG)
    Failure.objects.update(at=timezone.now() - timedelta(minutes=15, seconds=1))
    assert door.sign_in("ann@example.org", WRONG).every() == {"email_password_mismatch"}
    assert attempts.expire() == 0, "other windows are an hour"
    Failure.objects.update(at=timezone.now() - timedelta(hours=1, seconds=1))
    assert attempts.expire() == 8


def test_each_image_is_good_for_one_answer(door: Any, new_user: Callable[..., User], solved: Solved) -> None:
    """P3: right or wrong. Neither replayed nor guessed at."""
    new_user("ann@example.org")
    for _try in range(3):
        door.sign_in("ann@example.org", WRONG)
    key, answer = solved()
    assert door.sign_in("ann@example.org", WRONG, **door.captcha(key, answer)).every() == {"email_password_mismatch"}
    assert door.sign_in("ann@example.org", **door.captcha(key, answer)).every() == {"captcha_wrong"}
    key, answer = solved()
    assert door.sign_in("ann@example.org", **door.captcha(key, "wrong")).every() == {"captcha_wrong"}
    assert door.sign_in("ann@example.org", **door.captcha(key, answer)).every() == {"captcha_wrong"}
    key, answer = solved()
    CaptchaStore.objects.update(expiration=timezone.now())
    assert door.sign_in("ann@example.org", **door.captcha(key, answer)).every() == {"captcha_wrong"}


@pytest.mark.parametrize("given", [None, [], "x", {"key": 1, "answer": 2}, {"key": "x"}, {"key": None, "answer": "x"}])
def test_malformed_answers(app: Any, new_user: Callable[..., User], given: Any) -> None:
    """P3: they are no answers."""
    new_user("ann@example.org")
    for _try in range(3):
        app.sign_in("ann@example.org", WRONG)
    assert app.sign_in("ann@example.org", captcha=given).every() == {"captcha_required"}


def test_simultaneous_tries(new_user: Callable[..., User]) -> None:
    """P3: of 24 at once exactly three are judged without the characters."""
    from django.db import connections
    from django.test import Client

    new_user("ann@example.org")

    # By the interface: Django's test client mixes up the pages of several threads.
    body = json.dumps({"email": "ann@example.org", "password": WRONG})

    def once(_number: int) -> str:
        try:
            path = "/_allauth/app/v1/auth/login"
            answer = Client().post(path, data=body, content_type="application/json").json()
            return str(answer["errors"][0]["code"])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(once, range(24)))
    assert said.count("email_password_mismatch") == 3
    assert said.count("captcha_required") == 21


def test_simultaneous_answers(solved: Solved) -> None:
    """P3: of 16 answers with one image one counts."""
    from django.db import connections

    key, answer = solved()
    request = RequestFactory().post("/", {"captcha_key": key, "captcha_answer": answer})

    def once(_number: int) -> bool:
        try:
            captcha.check(request)
        except ValidationError:
            return False
        finally:
            connections.close_all()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(once, range(16))) == 1


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_what_is_one_address(one: str, other: str, same: bool) -> None:
    """P3: a house has a whole /64."""
    assert (attempts.network(one) == attempts.network(other)) is same


def test_nobody_reads_emails_in_the_counters(door: Any) -> None:
    door.sign_in("ann@example.org", WRONG)
    assert Failure.objects.count() == 2
    assert all(len(each.key) == 64 and "ann" not in each.key for each in Failure.objects.all())
