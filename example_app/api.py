"""The JSON API. Amounts are text, such as ``"12.50"``: not every client reads numbers exactly."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, jsonify, request, url_for
from flask.typing import ResponseReturnValue

from . import fields, imports, journal, ledger, money, payments, statements, uploads
from .database import db
from .models import Account, Attempt, Transfer

blueprint = Blueprint("api", __name__, url_prefix="/api")


@blueprint.get("/accounts")
def accounts() -> ResponseReturnValue:
    return jsonify(accounts=[_account(account) for account in ledger.accounts()])


@blueprint.post("/accounts")
def open_account() -> ResponseReturnValue:
    body = _body()
    may_overdraw = fields.flag(body.get("may_overdraw", False), "field may_overdraw")
    account = ledger.open_account(body.get("name"), may_overdraw=may_overdraw)
    journal.announce(ledger.describe_opening, account.name)
    db.session.flush()  # the response shows the id
    location = url_for(".statement", account_id=account.id)
    return jsonify(_account(account)), 201, {"Location": location}


@blueprint.get("/accounts/<int:account_id>")
def statement(account_id: int) -> ResponseReturnValue:
    account = ledger.account(account_id)
    page = statements.page(account.id)
    body = jsonify(account=_account(account), postings=[_line(line) for line in page.lines])
    return page.keys.add_links(body)


@blueprint.get("/transfers")
def transfers() -> ResponseReturnValue:
    page = statements.transfers()
    return page.add_links(jsonify(transfers=[_transfer(transfer) for transfer in page]))


@blueprint.post("/transfers")
@db.unit(isolation_level=payments.LEVEL, retries=payments.RETRIES)
def transfer() -> ResponseReturnValue:
    return jsonify(_transfer(payments.pay(_body()))), 201


@blueprint.post("/imports")
def import_file() -> ResponseReturnValue:
    skip_bad = request.args.get("skip") == "bad"
    result = imports.load(uploads.stream(), uploads.name(), skip_bad=skip_bad)
    if not skip_bad:
        return jsonify(transfers=result.count), 201
    reasons = [{"line": bad.line, "reason": bad.reason} for bad in result.reasons]
    return jsonify(transfers=result.count, skipped=result.skipped, reasons=reasons), 201


@blueprint.get("/journal")
def entries() -> ResponseReturnValue:
    page = journal.page()
    return page.add_links(jsonify(attempts=[_attempt(attempt) for attempt in page]))


def _body() -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        abort(400, "The body must be a JSON object, sent as application/json.")
    return body


def _account(account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "balance": money.plain(account.balance),
        "may_overdraw": account.may_overdraw,
    }


def _transfer(transfer: Transfer) -> dict[str, Any]:
    paid, received = transfer.postings
    return {
        "id": transfer.id,
        "at": f"{transfer.at.isoformat()}Z",
        "from": paid.account_id,
        "to": received.account_id,
        "amount": money.plain(received.amount),
        "memo": transfer.memo,
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "at": f"{attempt.at.isoformat()}Z",
        "what": attempt.what,
        "result": attempt.result,
        "progress": attempt.progress,
        "running": attempt.is_running,
    }


def _line(line: statements.Line) -> dict[str, Any]:
    return {
        "transfer": line.transfer_id,
        "at": f"{line.at.isoformat()}Z",
        "memo": line.memo,
        "other": line.other,
        "amount": money.plain(line.amount),
        "balance": money.plain(line.balance),
    }
