new EventSource("/events").addEventListener("note", () => location.reload());
