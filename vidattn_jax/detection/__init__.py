"""Finding actions in time: segments, and how detections are judged."""
