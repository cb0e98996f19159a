"""Queries that devices ask all day: Django writes their SQL once, not at each request.

Writing it costs several times what the database does for it. The values are bound at each call, as ever.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Expression, Field, QuerySet
from django.db.models.query import ModelIterable, get_related_populators
from django.db.models.sql import UpdateQuery

T = TypeVar("T")


class Slot(Expression):
    """A value that each call gives by this name. `of`: how it is written for the database."""

    def __init__(self, name: str, of: Field) -> None:
        super().__init__(output_field=of)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        return "%s", (self,)

    def bound(self, values: dict[str, Any]) -> Any:
        return self.output_field.get_db_prep_value(values[self.name], connection)


@dataclass(frozen=True)
class _Made:
    sql: str
    params: tuple[Any, ...]
    converters: list[tuple[int, list[Callable[[Any, Any, Any], Any]], Any]] = field(default_factory=list)
    build: Callable[[list[Any]], Any] = tuple


class _Statement(ABC):
    def __init__(self, queryset: Callable[[], QuerySet[Any, Any]]) -> None:
        self._queryset = queryset
        self._made: dict[str, _Made] = {}

    def _run(self, cursor: CursorWrapper, values: dict[str, Any]) -> _Made:
        made = self._made.get(connection.vendor)
        if made is None:
            made = self._made[connection.vendor] = self._make(self._queryset())
        params = [each.bound(values) if isinstance(each, Slot) else each for each in made.params]
        cursor.execute(made.sql, params)
        return made

    @abstractmethod
    def _make(self, queryset: QuerySet[Any, Any]) -> _Made: ...


class Select(_Statement, Generic[T]):
    """A queryset with slots: `Select(lambda: Device.objects.filter(pk=Slot("pk", BigAutoField())))`.

    It gives models, with what select_related names, or the tuples of values_list.
    """

    def __call__(self, **values: Any) -> list[T]:
        with connection.cursor() as cursor:
            made = self._run(cursor, values)
            rows = cursor.fetchall()
        found: list[T] = []
        for row in map(list, rows):
            for at, converters, expression in made.converters:
                for convert in converters:
                    row[at] = convert(row[at], expression, connection)
            found.append(made.build(row))
        return found

    def _make(self, queryset: QuerySet[Any, Any]) -> _Made:
        # As QuerySet's own iterables do it.
        compiler = queryset.query.get_compiler(connection=connection)
        sql, params = compiler.as_sql()
        converters = compiler.get_converters([each[0] for each in compiler.select])
        models = queryset._iterable_class is ModelIterable
        return _Made(
            sql, tuple(params), [(at, *how) for at, how in converters.items()], _model(compiler) if models else tuple
        )


class Update(_Statement):
    """`Update(lambda: Device.objects.filter(pk=Slot(...)), name=Slot(...))`; called, it tells how many rows changed."""

    def __init__(self, queryset: Callable[[], QuerySet[Any, Any]], **fields: Slot) -> None:
        super().__init__(queryset)
        self._fields = fields

    def __call__(self, **values: Any) -> int:
        with transaction.mark_for_rollback_on_error(connection.alias), connection.cursor() as cursor:
            self._run(cursor, values)
            return int(cursor.rowcount)

    def _make(self, queryset: QuerySet[Any, Any]) -> _Made:
        query: Any = queryset.query.chain(UpdateQuery)
        query.add_update_values(self._fields)
        sql, params = query.get_compiler(connection=connection).as_sql()
        return _Made(sql, tuple(params))


def _model(compiler: Any) -> Callable[[list[Any]], Any]:
    info, alias = compiler.klass_info, connection.alias
    related = get_related_populators(info, compiler.select, alias)  # type: ignore[call-arg]  # Django 6's
    first, last = info["select_fields"][0], info["select_fields"][-1] + 1
    names = [each[0].target.attname for each in compiler.select[first:last]]

    def build(row: list[Any]) -> Any:
        made = info["model"].from_db(alias, names, row[first:last])
        for each in related:
            each.populate(row, made)
        return made

    return build
