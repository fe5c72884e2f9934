"""A small shop on SQLite: the catalogue is read, orders are written. It knows nothing of replication but to wait for a lock.

  shop.py create      makes the database ($SHOP_DB) with a few products
"""
import os
import sqlite3
import sys

from flask import Flask, abort, g, redirect, render_template, request, session

SCHEMA = """
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, cents INTEGER NOT NULL, stock INTEGER NOT NULL CHECK (stock >= 0));
CREATE TABLE purchase (id INTEGER PRIMARY KEY, at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP, customer TEXT NOT NULL);
CREATE TABLE item (purchase INTEGER NOT NULL REFERENCES purchase (id), product INTEGER NOT NULL REFERENCES product (id), n INTEGER NOT NULL, cents INTEGER NOT NULL);
INSERT INTO product (name, cents, stock) VALUES ('Pencil', 120, 500), ('Notebook', 450, 80), ('Slide rule', 2900, 3);
"""

app = Flask(__name__)
app.secret_key = os.environ.get("SHOP_SECRET", "the same on all nodes; set your own")


@app.template_filter("money")
def money(cents):
    return f"{cents // 100}.{cents % 100:02}"


def db():
    if "db" not in g:
        g.db = sqlite3.connect(os.environ["SHOP_DB"], timeout=20, isolation_level=None)
        g.db.row_factory = sqlite3.Row
    return g.db


@app.teardown_appcontext
def close(_):
    if "db" in g:
        g.pop("db").close()


def cart():
    """Rows of the products in the cart (which lives in the session cookie), each with n."""
    wanted = session.get("cart", {})
    rows = [db().execute("SELECT * FROM product WHERE id = ?", (pk,)).fetchone() for pk in wanted]
    return [dict(row, n=wanted[str(row["id"])]) for row in rows if row]


@app.get("/")
def catalogue():
    return render_template("catalogue.html", products=db().execute("SELECT * FROM product ORDER BY name").fetchall())


@app.get("/product/<int:pk>")
def product(pk):
    row = db().execute("SELECT * FROM product WHERE id = ?", (pk,)).fetchone() or abort(404)
    page = app.make_response(render_template("product.html", product=row))
    page.headers["Cache-Control"] = "public, max-age=60"  # the proxy drops it earlier when the database changes
    return page


@app.post("/cart")
def add():
    wanted = dict(session.get("cart", {}))
    wanted[request.form["product"]] = wanted.get(request.form["product"], 0) + 1
    session["cart"] = wanted
    return redirect("/checkout")


@app.get("/checkout")
def checkout():
    return render_template("checkout.html", cart=cart())


@app.post("/checkout")
def buy():
    """All or nothing: a product that is sold out undoes the whole purchase."""
    items = cart() or abort(400)
    try:
        db().execute("BEGIN IMMEDIATE")
        pk = db().execute("INSERT INTO purchase (customer) VALUES (?)", (request.form["customer"],)).lastrowid
        for p in items:
            db().execute("UPDATE product SET stock = stock - ? WHERE id = ?", (p["n"], p["id"]))
            db().execute("INSERT INTO item VALUES (?, ?, ?, ?)", (pk, p["id"], p["n"], p["cents"]))
        db().execute("COMMIT")
    except sqlite3.IntegrityError:  # CHECK (stock >= 0)
        db().execute("ROLLBACK")
        return render_template("checkout.html", cart=cart(), sold_out=True), 409
    session["cart"] = {}
    return redirect(f"/order/{pk}")


@app.get("/order/<int:pk>")
def order(pk):
    head = db().execute("SELECT * FROM purchase WHERE id = ?", (pk,)).fetchone() or abort(404)
    rows = db().execute("SELECT item.*, name FROM item JOIN product ON product.id = item.product WHERE purchase = ?", (pk,)).fetchall()
    return render_template("order.html", order=head, items=rows)


if __name__ == "__main__":
    if sys.argv[1:] != ["create"]:
        sys.exit(__doc__.strip())
    with app.app_context():
        db().execute("PRAGMA journal_mode = WAL")
        db().executescript(SCHEMA)
