"""Result files as HTML pages, Markdown tables and charts."""
