"""Policy files, and the decisions they lead to, without side effects."""
