<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}} · RasPy</title>
<link rel="icon" href="{{static["icon.svg"]}}" type="image/svg+xml">
<link rel="stylesheet" href="{{static["style.css"]}}">
% if defined("clock"):
<script src="{{static["page.js"]}}" defer></script>
<noscript><meta http-equiv="refresh" content="15"></noscript>
% end
</head>
<body>
<header>
<h1><a href="/">{{hostname}}</a></h1>
% if defined("clock"):
<p id="link" role="status"></p>
<noscript><p>As of {{clock}}. This page loads itself anew every 15 s.</p></noscript>
% end
</header>
% if defined("clock"):
<p id="notice" role="status">{{notice}}</p>
<p id="announce" class="unseen" role="status"></p>
% end
{{!base}}
<footer><p>RasPy {{version}} · <a href="/api/v1/tree">the whole tree as JSON</a></p></footer>
</body>
</html>
