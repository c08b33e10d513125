% # Where this page is found again, also when it answers a form.
% found_at = get("found_at") or (visit.path if visit.method == "GET" else "/")
<!DOCTYPE html>
<html lang="{{t.language}}" data-words="{{t.script}}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}} · RasPy</title>
<link rel="icon" href="{{static["icon.svg"]}}" type="image/svg+xml">
<link rel="stylesheet" href="{{static["style.css"]}}">
% if live:
<script src="{{static["page.js"]}}" defer></script>
% if live == "whole":
<noscript><meta http-equiv="refresh" content="15"></noscript>
% end
% end
% if get("again"):
<noscript><meta http-equiv="refresh" content="{{again}}; url={{then}}"></noscript>
% end
% for name in get("scripts", ()):
<script src="{{static[name]}}" defer></script>
% end
</head>
<body>
<a class="skip" href="#main">{{t("To the content")}}</a>
<header>
<p class="brand"><a href="/"><img src="{{static["icon.svg"]}}" alt="" width="24" height="24">{{hostname}}</a></p>
% if visit.session:
<nav aria-label="{{t("Pages")}}">
<ul>
% for path, called in (("/", t("Home")), ("/scenarios", t("Scenarios")), ("/schedule", t("Schedule")), ("/requests", t("Requests")), ("/system", t("System"))):
% place = visit.path.partition("?")[0]
<li><a href="{{path}}"{{!' aria-current="page"' if place == path or (path != "/" and place.startswith(path + "/")) else ""}}>{{called}}</a></li>
% end
</ul>
</nav>
% end
% if live:
<p id="link" role="status"></p>
% if live == "whole":
<noscript><p>{{t("As of {time}. This page loads itself anew every 15 s.", time=clock(now))}}</p></noscript>
% else:
<noscript><p>{{t("As of {time}.", time=clock(now))}} <a href="{{found_at}}">{{t("Load it anew")}}</a></p></noscript>
% end
% end
</header>
<p id="notice" role="status">{{get("notice", "")}}</p>
<p id="said" role="status">{{said}}</p>
% if live:
<p id="announce" class="unseen" role="status"></p>
% end
{{!base}}
<footer>
<p>RasPy {{version}}</p>
<form method="post" action="/language">
<input type="hidden" name="csrf" value="{{visit.csrf}}">
<input type="hidden" name="back" value="{{found_at}}">
% for language, called in (("en", "English"), ("fr", "Français")):
% if language != t.language:
<button class="plain" name="language" value="{{language}}" lang="{{language}}">{{called}}</button>
% end
% end
</form>
% if visit.session:
<form method="post" action="/logout"><input type="hidden" name="csrf" value="{{visit.csrf}}"><button class="plain">{{t("Log out")}}</button></form>
% end
</footer>
</body>
</html>
