"""The HTML pages."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from flask import (
    Blueprint,
    Response,
    flash,
    redirect,
    render_template,
    request,
    stream_with_context,
    url_for,
)
from flask.typing import ResponseReturnValue

from . import imports, journal, ledger, money, payments, receipts, statements, uploads
from .database import db

blueprint = Blueprint("pages", __name__)
blueprint.add_app_template_global(ledger.accounts, "all_accounts")


@blueprint.get("/")
def accounts() -> ResponseReturnValue:
    return render_template("accounts.html", latest=statements.latest(size=8))


@blueprint.route("/accounts/new", methods=["GET", "POST"])
def open_account() -> ResponseReturnValue:
    if request.method == "GET":
        return render_template("open_account.html")
    account = ledger.open_account(
        request.form.get("name"), may_overdraw="may_overdraw" in request.form
    )
    journal.announce(ledger.describe_opening, account.name)
    flash(f'The account "{account.name}" is open.')
    # Not stored yet: if the name exists already, the commit fails and the response is a 409.
    return redirect(url_for(".accounts"))


@blueprint.get("/accounts/<int:account_id>")
def statement(account_id: int) -> ResponseReturnValue:
    account = ledger.account(account_id)
    page = statements.page(account.id)
    return render_template("statement.html", account=account, page=page)


@blueprint.get("/accounts/<int:account_id>/statement.csv")
def statement_file(account_id: int) -> ResponseReturnValue:
    account = ledger.account(account_id)
    headers = {"Content-Disposition": f"attachment; filename=statement-{account.id}.csv"}
    # Streamed: the lines are never in memory all at once.
    rows = stream_with_context(_csv(statements.lines(account.id)))
    return Response(rows, mimetype="text/csv", headers=headers)


@blueprint.get("/transfers/new")
def transfer_form() -> ResponseReturnValue:
    return render_template("transfer.html")


@blueprint.post("/transfers/new")
@db.unit(isolation_level=payments.LEVEL, retries=payments.RETRIES)
def transfer() -> ResponseReturnValue:
    paid, received = payments.pay(request.form).postings
    flash(f"{money.show(received.amount)} transferred.")
    return redirect(url_for(".statement", account_id=paid.account_id))


@blueprint.route("/import", methods=["GET", "POST"])
def import_file() -> ResponseReturnValue:
    if request.method == "GET":
        return render_template("import.html", running=journal.running())
    file, name = uploads.stream(), uploads.name()
    result = imports.load(file, name, skip_bad="skip_bad" in request.form)
    if result.skipped:
        return render_template("import.html", result=result)
    flash(f"Transfers imported: {result.count:,}.")
    return redirect(url_for(".accounts"))


@blueprint.get("/journal")
def entries() -> ResponseReturnValue:
    page = journal.page()
    return render_template("journal.html", page=page, receipts=receipts.latest(size=5))


def _csv(lines: Iterator[statements.Line]) -> Iterator[str]:
    yield "at,memo,other account,amount,balance\r\n"
    for line in lines:
        row = io.StringIO()
        csv.writer(row).writerow(
            [line.at, line.memo, line.other, money.plain(line.amount), money.plain(line.balance)]
        )
        yield row.getvalue()
