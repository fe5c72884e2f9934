from django import forms
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import UserCreationForm
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render

from .models import Note


class NoteForm(forms.ModelForm):
    class Meta:
        model = Note
        fields = ["title", "text"]


class EditForm(NoteForm):
    version = forms.IntegerField(widget=forms.HiddenInput)


def sign_up(request):
    form = UserCreationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        login(request, form.save())
        return redirect("/")
    return render(request, "form.html", {"form": form, "title": "Sign up"})


@login_required
def index(request):
    """The newest notes, and a form for one more."""
    form = NoteForm(request.POST or None, instance=Note(owner=request.user))
    if request.method == "POST" and form.is_valid():
        return redirect(f"/{form.save().pk}")
    notes = Note.objects.filter(owner=request.user).order_by("-pk")[:20]
    return render(request, "index.html", {"form": form, "notes": notes, "visits": request.session.get("visits", 0)})


@login_required
def edit(request, pk):
    """One note. Saving says which version was edited: 409 and both texts if that is no longer the newest."""
    note = get_object_or_404(Note, pk=pk, owner=request.user)
    if request.method == "POST":
        form = EditForm(request.POST)
        if form.is_valid():
            if note.replace(form.cleaned_data["version"], form.cleaned_data["title"], form.cleaned_data["text"]):
                return redirect(f"/{pk}")
            note.refresh_from_db()
            mine = dict(form.cleaned_data, version=note.version)
            return render(request, "edit.html", {"form": EditForm(mine), "note": note, "conflict": True}, status=409)
    else:
        form = EditForm(initial={"title": note.title, "text": note.text, "version": note.version})
    return render(request, "edit.html", {"form": form, "note": note})


@login_required
def visit(request):
    """Counts in the session: a write that is nothing but a session's."""
    if request.method != "POST":
        return HttpResponse(status=405)
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@login_required
def note_json(request, pk):
    note = get_object_or_404(Note, pk=pk, owner=request.user)
    return JsonResponse({"id": note.pk, "title": note.title, "text": note.text, "version": note.version})
