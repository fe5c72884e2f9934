from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.index),
    path("<int:pk>", views.edit),
    path("<int:pk>.json", views.note_json),
    path("visit", views.visit),
    path("sign-up", views.sign_up),
    path("login", LoginView.as_view(template_name="form.html", extra_context={"title": "Log in"})),
    path("logout", LogoutView.as_view()),
]
