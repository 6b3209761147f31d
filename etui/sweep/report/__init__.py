"""What a sweep shows: the sentence, the table, the JSON document and the HTML page."""
