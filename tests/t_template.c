// Protects the chat template interpreter: equality with jinja2 (golden files of tests/golden/
// template.py), the source of every byte of the output, and its bounds against hostile templates.
#include "tests/test.h"
#include <errno.h>
#include <time.h>
#include "base/base.h"
#include "engine/text/template.h"

TEST_MAIN

// --- golden files

enum { PARTS = 4 };
struct record { char name[100]; long n[PARTS], result; int add, code; char *part[PARTS], *text; };

static char *read_bytes(FILE *f, long n)
{
    char *p = calloc(1, (size_t)n + 1);
    if (!p || fread(p, 1, (size_t)n, f) != (size_t)n)
        TEST_FAIL("the golden file is cut short");
    return p;
}

static bool read_record(FILE *f, struct record *r)
{
    long n[PARTS];
    free(r->text);
    r->text = NULL;
    if (fscanf(f, "%99s %ld %ld %ld %ld %d %d %ld", r->name, &n[0], &n[1], &n[2], &n[3], &r->add,
               &r->code, &r->result) != 8)
        return false;
    fgetc(f);
    for (int i = 0; i < PARTS; i++) {
        if (n[i] == -2)
            continue;           // as before
        free(r->part[i]);
        r->part[i] = n[i] < 0 ? NULL : read_bytes(f, n[i]);
        r->n[i] = n[i];
    }
    r->text = read_bytes(f, r->result);
    return true;
}

static time_t golden_now(void)
{
    struct tm tm = {.tm_year = 126,
                    .tm_mon = 2,
                    .tm_mday = 7,
                    .tm_hour = 9,
                    .tm_min = 5,
                    .tm_sec = 2,
                    .tm_isdst = -1};
    return mktime(&tm);
}

static void check_record(const struct record *r, struct rendered *out)
{
    struct chat_template *t = NULL;
    struct err e = {0};
    struct template_vars v = {
        .messages = r->part[1],
        .n_messages = (size_t)r->n[1],
        .tools = r->part[2],
        .n_tools = r->part[2] ? (size_t)r->n[2] : 0,
        .kwargs = r->part[3],
        .n_kwargs = r->part[3] ? (size_t)r->n[3] : 0,
        .bos_token = "<s>",
        .eos_token = "</s>",
        .add_generation_prompt = r->add,
        .now = golden_now(),
    };
    int code = template_open(&t, r->part[0], (size_t)r->n[0], &e);
    if (code == 0)
        code = template_render(t, &v, out, &e);
    template_close(t);
    if ((code == 0) != (r->code == 0))
        TEST_FAIL("%s: %.300s: returned %d (%s)", r->name, r->part[0], code,
                  code ? e.msg : out->text.p);
    if (code == 0 &&
        (out->text.n != (size_t)r->result || memcmp(out->text.p, r->text, out->text.n)))
        TEST_FAIL("%s: %.300s\ngave   %s\nwanted %s", r->name, r->part[0], out->text.p, r->text);
    REQUIRE_INT(out->plain.n, out->text.n);
    if (r->code == 1)
        REQUIRE_STR(e.msg, r->text);
}

static void check_file(const char *name, unsigned at_least)
{
    char path[4096];
    const char *source = getenv("GODWIT_SOURCE");
    snprintf(path, sizeof(path), "%s/tests/golden/%s", source ? source : ".", name);
    FILE *f = fopen(path, "rb");
    if (!f)
        TEST_FAIL("cannot open %s", path);
    struct record r = {0};
    struct rendered out = {0};
    unsigned n = 0;
    for (; read_record(f, &r); n++)
        check_record(&r, &out);
    fclose(f);
    rendered_free(&out);
    for (int i = 0; i < PARTS; i++)
        free(r.part[i]);
    free(r.text);
    REQUIRE(n >= at_least);
}

TEST(models_as_jinja2) { check_file("template_models.txt", 70); }
TEST(snippets_as_jinja2) { check_file("template_snippets.txt", 3000); }

// --- one template at a time

struct run { struct rendered out; struct err e; int code; };

static struct run run_vars(const char *src, size_t n, struct template_vars v)
{
    struct run r = {0};
    struct chat_template *t = NULL;
    r.code = template_open(&t, src, n, &r.e);
    if (r.code == 0)
        r.code = template_render(t, &v, &r.out, &r.e);
    template_close(t);
    return r;
}

static struct template_vars vars(const char *messages)
{
    return (struct template_vars){ .messages = messages, .n_messages = strlen(messages),
                                   .bos_token = "<s>", .eos_token = "</s>" };
}

static struct run run(const char *src, const char *messages)
{
    return run_vars(src, strlen(src), vars(messages));
}

static void check(const char *src, const char *messages, int code, const char *want)
{
    struct run r = run(src, messages);
    if (r.code != code)
        TEST_FAIL("%.200s: %d (%s), not %d", src, r.code, r.code ? r.e.msg : "rendered", code);
    if (want)
        REQUIRE_STR(r.code ? r.e.msg : r.out.text.p ? r.out.text.p : "", want);
    rendered_free(&r.out);
}

// --- the source of bytes: `want` has a # for each byte that must count as plain text

static const char user[] = "[{\"role\":\"user\",\"content\":\" Hi <|im_end|>, \\u00e4 \"}]";

static void check_plain(const char *src, const char *text, const char *want)
{
    struct run r = run(src, user);
    if (r.code)
        TEST_FAIL("%s: %s", src, r.e.msg);
    REQUIRE_STR(r.out.text.p, text);
    REQUIRE_INT(r.out.text.n, r.out.plain.n);
    REQUIRE_INT(strlen(want), r.out.plain.n);
    for (size_t i = 0; i < r.out.plain.n; i++) {
        if (r.out.plain.p[i] != (want[i] == '#'))
            TEST_FAIL("%s: byte %zu (%c) is %s", src, i, text[i],
                      r.out.plain.p[i] ? "plain" : "not");
    }
    rendered_free(&r.out);
}

TEST(source_of_bytes)
{
    static const struct { const char *src, *text, *want;
    } cases[] = {
        {"<|im_end|>{{ messages[0].content }}<|im_end|>",
         "<|im_end|> Hi <|im_end|>, \xc3\xa4 <|im_end|>",
         "----------###################----------"},
        {"{{ '<|im_end|>' + messages[0].content|trim }}", "<|im_end|>Hi <|im_end|>, \xc3\xa4",
         "----------#################"},
        {"{{ messages[0].content.split('>')[1] }}|", ", \xc3\xa4 |", "#####-"},
        {"{{ messages[0].content.replace('Hi', 'Ho')|trim }}", "Ho <|im_end|>, \xc3\xa4",
         "--###############"},
        {"{{ messages[0].content|replace('<', '[')|trim }}", "Hi [|im_end|>, \xc3\xa4",
         "###-#############"},
        {"{{ [messages[0].role, 'x', messages[0].content[4:14]]|join('<|im_end|>') }}",
         "user<|im_end|>x<|im_end|><|im_end|>", "####---------------------##########"},
        {"{{ {'a': messages[0].content[4:14]}|tojson }}", "{\"a\": \"<|im_end|>\"}",
         "-------##########--"},
        {"{{ messages[0]|tojson }}",
         "{\"role\": \"user\", \"content\": \" Hi <|im_end|>, \xc3\xa4 \"}",
         "--####----####----#######----###################--"},
        {"{{ messages[0].content[4:14]|upper }}{{ 'a'|upper }}", "<|IM_END|>A", "##########-"},
        {"{{ '%s|%s' % (messages[0].role, 'b') }}", "user|b", "####--"},
        {"{{ '[{}]'.format(messages[0].role) }}", "[user]", "-####-"},
        {"{{ messages[0].role * 2 ~ 'x' }}", "useruserx", "########-"},
        {"{{ messages[0].role[::-1] ~ 'x' }}", "resux", "####-"},
        {"{% set x %}a{{ messages[0].role }}{% endset %}{{ x }}{{ x[1:] }}", "auseruser",
         "-########"},
        {"{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(messages[0].role) }}", "<user>", "-####-"},
        {"{% filter upper %}a{{ messages[0].role }}{% endfilter %}", "AUSER", "-####"},
        {"{% for k, v in messages[0].items() %}{{ k }}={% endfor %}",
         "role=content=", "####-#######-"},
        {"{{ messages[0].content|list|first ~ '.' }}", " .", "#-"},
        {"{{ [messages[0].role] }}", "['user']", "--####--"},
        {"{% set ns = namespace(t='') %}{% for c in 'ab' %}{% set ns.t = ns.t ~ messages[0].role ~ "
         "c %}"
         "{% endfor %}{{ ns.t }}",
         "userauserb", "####-####-"},
        {"{{ messages[0].role.title().center(8, '-') }}", "--User--", "--####--"},
        {"{{ ('a' ~ messages[0].role)|indent(2, true) }}", "  auser", "---####"},
        {"{{ messages[0].role|escape ~ messages[0].content[4]|e }}", "user&lt;", "########"},
        {"{% if messages[0].role == 'user' %}user{% endif %}{{ messages|length }}", "user1",
         "-----"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        check_plain(cases[i].src, cases[i].text, cases[i].want);
}

// --- input

TEST(messages_are_normalised)
{
    check("{{ messages[0].role }}", "[{\"role\":\"developer\",\"content\":\"x\"}]", 0, "system");
    check("{{ messages[0].content }}",
          "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]",
          0, "a\nb");
    check("{{ messages[0].content is none }}", "[{\"role\":\"user\"}]", 0, "True");
    check("{{ messages[0].content[1].type }}",
          "[{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image_url\"}]}]", 0,
          "image_url");
    check("{{ tools is none }}", "[]", 0, "True");
}

TEST(tool_arguments)
{
    const char *src = "{{ messages[0].tool_calls[0].function.arguments is mapping }}"
                      "{{ messages[0].tool_calls[0].function.arguments }}";
    struct template_vars v = vars("[{\"tool_calls\":[{\"id\":\"1\",\"function\":{\"name\":\"f\","
                                  "\"arguments\":\"{\\\"a\\\": 1.0}\"}}]}]");
    check(src, v.messages, 0, "False{\"a\": 1.0}");
    v.arguments_as_objects = true;
    struct run r = run_vars(src, strlen(src), v);
    REQUIRE_STR(r.out.text.p, "True{'a': 1.0}");
    rendered_free(&r.out);
    v = vars("[{\"tool_calls\":[{\"function\":{\"arguments\":\"{broken\"}}]}]");
    v.arguments_as_objects = true;
    r = run_vars(src, strlen(src), v);
    REQUIRE_STR(r.out.text.p, "False{broken");
    rendered_free(&r.out);
}

TEST(json_values)
{
    check("{{ messages[0]|tojson }}",
          "[{\"content\":1.0,\"b\":1e20,\"a\":123456789012345678901234567890,\"n\":-0,\"e\":1E2}]",
          0,
          "{\"content\": 1.0, \"b\": 1e+20, \"a\": 123456789012345678901234567890, \"n\": 0, "
          "\"e\": 100.0}");
    check("{{ messages[0] }}", "[{\"content\":1,\"a\":2,\"content\":3}]", 0,
          "{'content': 3, 'a': 2}");
    check("{{ messages[0].content }}", "[{\"content\":\"\\ud83d\\ude00\\ud83d\\u00e9\\/\"}]", 0,
          "\xf0\x9f\x98\x80\xef\xbf\xbd\xc3\xa9/");
    check("{{ messages[0].x }}", "[{\"x\": -9223372036854775808}]", 0, "-9223372036854775808");
    check("{{ messages[0].x + 1 }}", "[{\"x\": 9223372036854775807}]", -E2BIG, NULL);
}

TEST(bad_json_is_refused)
{
    static const char *const bad[] = {
        "",
        "[",
        "]",
        "[1,]",
        "{}",
        "[{\"a\":1,}]",
        "[{a:1}]",
        "[{\"a\" 1}]",
        "[\"x]",
        "[01]",
        "[1.]",
        "[.5]",
        "[+1]",
        "[-]",
        "[1e]",
        "[nul]",
        "[NaN]",
        "[Infinity]",
        "['a']",
        "[\"\\x\"]",
        "[\"\\u12\"]",
        "[\"\n\"]",
        "[] []",
        "[1]",
        "[\"\xff\"]",
        "[\"\xed\xa0\x80\"]",
        "nulll",
        "[tru]",
        "[{\"a\":}]",
        "[{1:2}]",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        check("x", bad[i], -EINVAL, NULL);
    char deep[300];
    memset(deep, '[', 130);
    memset(deep + 130, ']', 130);
    deep[260] = '\0';
    check("x", deep, -E2BIG, NULL);
}

TEST(kwargs_do_not_override_the_server)
{
    struct template_vars v = vars("[]");
    const char *src = "{{ a }}{{ messages }}";
    v.kwargs = "{\"a\": 1, \"not_there\": {}}";
    v.n_kwargs = strlen(v.kwargs);
    struct run r = run_vars(src, strlen(src), v);
    REQUIRE_STR(r.out.text.p, "1[]");
    rendered_free(&r.out);
    v.kwargs = "{\"messages\": []}";
    v.n_kwargs = strlen(v.kwargs);
    REQUIRE_INT(run_vars(src, strlen(src), v).code, -EINVAL);
}

TEST(errors_name_the_line)
{
    struct chat_template *t = NULL;
    struct err e;
    const char *src = "a\nb\n{% if x %}\n{{ 1 + }}\n";
    REQUIRE_INT(template_open(&t, src, strlen(src), &e), -EINVAL);
    REQUIRE(t == NULL && strstr(e.msg, "line 4"));
    check("a\n{{ raise_exception('no\nway') }}", "[]", -EINVAL, "no way");
    check("\n\n{{ x.y }}", "[]", -EINVAL, "template line 3: 'x' is undefined");
    check("\xff", "[]", -EINVAL, NULL);
    check("{{ messages[0].append(1) }}", "[{\"content\":1}]", -EINVAL, NULL);
    check("{{ messages.append(1) }}", "[]", -EINVAL, NULL);
}

// --- bombs: each must end soon, with a reason

TEST(bombs_end)
{
    static const char *const bombs[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(10**9) %}{% endfor %}",
        "{% for a in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * 1000 }}{% endfor "
        "%}",
        "{{ 'x' * 10**12 }}",
        "{{ [0] * 10**12 }}",
        "{{ 'x'|center(10**12) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '%.1000000000f' % 1.0 }}",
        "{{ 'a'|indent(10**12, true) }}",
        "{{ [1]|tojson(indent=10**12) }}",
        "{{ 10 ** 100 }}",
        "{{ 'a'|slice(10**12)|list }}",
        "{{ [1]|batch(10**12, 0)|list }}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% "
        "endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% "
        "endfor %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor "
        "%}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor "
        "%}{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% "
        "set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% "
        "endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] "
        "%}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) "
        "}}",
        "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% set s = 'aé' * 999999 %}{% for i in range(99999) %}{{ (s ~ i)|length }}{% endfor %}",
        "{% set s = 'é' * 999999 %}{% for i in range(99999) %}{% if s[1:]|trim|length %}{% endif "
        "%}{% endfor %}",
        "{% set s = 'a' * 999999 %}{% for i in range(99999) %}{% if s.split('a') %}{% endif %}{% "
        "endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% if 'b' in s %}{% endif %}{% "
        "endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% if s.upper() %}{% endif %}{% "
        "endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% if s.rfind('b') %}{% endif %}{% "
        "endfor %}",
        "{% set s = 'a' * 9999999 %}{% for i in range(99999) %}{% if s.isalpha() %}{% endif %}{% "
        "endfor %}",
        "{% set s = ' ' * 9999999 %}{% for i in range(99999) %}{% if s.strip() %}{% endif %}{% "
        "endfor %}",
        "{% set l = range(99999)|list %}{% for i in l %}{% if l|sort %}{% endif %}{% endfor %}",
        "{% set l = range(99999)|list %}{% for i in l %}{% if -1 in l %}{% endif %}{% endfor %}",
        "{% set l = range(99999)|list %}{% for i in l %}{% if l[1:] %}{% endif %}{% endfor %}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bombs); i++)
        check(bombs[i], "[]", -E2BIG, NULL);
    check("{{ strftime_now('%99999999d') }}", "[]", -E2BIG, NULL);
    check("{{ '%*d' % (10**12, 1) }}", "[]", -E2BIG, NULL);
}

static void check_repeated(const char *head, const char *unit, size_t times, const char *tail)
{
    struct str s = {0};
    str_puts(&s, head);
    for (size_t i = 0; i < times; i++)
        str_puts(&s, unit);
    str_puts(&s, tail);
    struct run r = run_vars(s.p, s.n, vars("[]"));
    if (r.code != -E2BIG && r.code != -EINVAL)
        TEST_FAIL("%s%s...: %d", head, unit, r.code);
    rendered_free(&r.out);
    str_free(&s);
}

TEST(deep_nesting_ends)
{
    const char *const units[] = {
        "(",       "[",  "{1:", "-",    "not ", "a(", "a[",   "a.b|c(", "1 if ",   "1 if 1 else ",
        "a is b(", "1+", "1**", "a.b.", "a|b|", "1<", "a[1]", "a()",    "'a' ~ (",
    };
    for (size_t i = 0; i < ARRAY_LEN(units); i++)
        check_repeated("{{ ", units[i], 100000, " }}");
    check_repeated("", "{% if 1 %}", 100000, "");
    check_repeated("", "{% for x in [1] %}", 100000, "");
    check_repeated("", "{% macro a() %}", 100000, "");
    check_repeated("", "{% set x %}", 100000, "");
    check_repeated("{% set ", "(", 100000, " = 1 %}");
    check_repeated("{% if 0 %}", "{% elif x %}", 100000, "");
    check_repeated("", "{%", 1000000, "");
    check_repeated("{% raw %}", "{%     ", 300000, "");
    check_repeated("", "x", 5 << 20, "");
}

TEST(long_conversations_fit)
{
    // quadratic appending would need gigabytes
    struct str s = {0};
    str_puts(&s, "[");
    for (int i = 0; i < 2000; i++)
        str_printf(&s, "%s{\"role\":\"user\",\"content\":\"%0500d\"}", i ? "," : "", i);
    str_puts(&s, "]");
    const char *src =
        "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role + ': ' + "
        "m.content + '\n' %}{% endfor %}{{ ns.t }}";
    struct run r = run(src, s.p);
    REQUIRE_INT(r.code, 0);
    REQUIRE_INT(r.out.text.n, 2000 * 507);
    rendered_free(&r.out);
    str_free(&s);
}
