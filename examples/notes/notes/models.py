from django.conf import settings
from django.db import models
from django.db.models import F
from django.utils import timezone


class Note(models.Model):
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    title = models.CharField(max_length=200)
    text = models.TextField(blank=True)
    version = models.IntegerField(default=1)
    changed = models.DateTimeField(default=timezone.now)

    def replace(self, version, title, text):
        """Saves an edit that began at `version`; False if somebody else has saved one since (optimistic locking)."""
        return 1 == Note.objects.filter(pk=self.pk, version=version).update(
            title=title, text=text, version=F("version") + 1, changed=timezone.now())
