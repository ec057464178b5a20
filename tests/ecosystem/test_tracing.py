"""OpenTelemetry and Sentry: what they see of a request, its statements and its COMMIT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_uow import Database
from tests.support.recipes import Recipe
from tests.support.witness import Witness


@pytest.fixture(autouse=True)
def _view(app: Flask, db: Database, models: Any) -> None:
    @app.post("/")
    def write() -> str:
        db.session.add(models.User(name="ada"))
        return ""


def write_twice(app: Flask) -> list[int]:
    """One request that is stored, and one whose commit is refused."""
    return [app.test_client().post("/").status_code for _ in range(2)]


@pytest.fixture
def spans() -> Iterator[Any]:
    trace = pytest.importorskip("opentelemetry.trace")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    instrumentation = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")
    pytest.importorskip("opentelemetry.instrumentation.flask")
    if not isinstance(trace.get_tracer_provider(), sdk.TracerProvider):
        trace.set_tracer_provider(sdk.TracerProvider())
    exporter = memory.InMemorySpanExporter()
    trace.get_tracer_provider().add_span_processor(export.SimpleSpanProcessor(exporter))
    yield exporter
    instrumentation.SQLAlchemyInstrumentor().uninstrument()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_opentelemetry_sees_the_statements_of_a_request(
    spans: Any, recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """The flush of the commit belongs to the request, and the refused one is an error."""
    recipe("OpenTelemetry")
    spans.clear()
    assert write_twice(app) == [200, 500]
    assert witness.ask("SELECT name FROM users") == ["ada"]
    found = spans.get_finished_spans()
    requests = {span.context.span_id for span in found if span.name == "POST /"}
    inserts = [span for span in found if span.name.startswith("INSERT")]
    assert len(inserts) == 2
    assert {span.parent.span_id for span in inserts} == requests
    assert [span.status.is_ok for span in inserts] == [True, False]


@pytest.fixture
def sent() -> Iterator[list[Any]]:
    """The events that Sentry would send."""
    sentry_sdk = pytest.importorskip("sentry_sdk")
    events: list[Any] = []
    init = sentry_sdk.init

    def note(event: Any, _hint: object) -> Any:
        events.append(event)
        return event

    # Those that it would choose itself, without the ones that patch other packages for good.
    used = [
        pytest.importorskip("sentry_sdk.integrations.flask").FlaskIntegration(),
        pytest.importorskip("sentry_sdk.integrations.sqlalchemy").SqlalchemyIntegration(),
    ]
    more = {"integrations": used, "auto_enabling_integrations": False, "before_send": note}
    sentry_sdk.init = lambda dsn, **options: init(dsn, **options, **more)
    yield events
    sentry_sdk.init = init
    init(auto_enabling_integrations=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sentry_reports_the_error_of_a_commit_once(
    sent: list[Any], recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """As it does with an error of the view."""
    recipe("Sentry", dsn="http://key@127.0.0.1:1/1")
    assert write_twice(app) == [200, 500]
    errors = [event["exception"]["values"][-1]["type"] for event in sent if "exception" in event]
    assert errors == ["IntegrityError"]
    assert witness.ask("SELECT name FROM users") == ["ada"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sentry_reports_what_only_the_log_has(
    sent: list[Any], recipe: Recipe, app: Flask, db: Database, witness: Witness
) -> None:
    """The error of a hook; one that a handler has turned into a response is not reported."""
    recipe("Sentry", dsn="http://key@127.0.0.1:1/1")
    app.register_error_handler(Exception, lambda error: ("", 409))

    @app.post("/hook")
    def hook() -> str:
        db.on_commit(lambda: 1 / 0)
        return ""

    assert app.test_client().post("/hook").status_code == 200
    assert write_twice(app) == [200, 409]
    errors = [event["exception"]["values"][-1]["type"] for event in sent if "exception" in event]
    assert errors == ["ZeroDivisionError"]
