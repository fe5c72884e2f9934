#include "lib/config.h"

#include "lib/config_load.h"
#include "lib/config_value.h"
#include "lib/util.h"
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>

#define CONFIG_FILE_MAX ((size_t)1 << 20)
#define ENDPOINTS_MAX 16
#define GLOBS_MAX 32
#define PAGE "docs/configuration.md"

const struct config_key config_keys[CONFIG_KEY_COUNT] = {
#define X(id, path, type, field, lowest, highest, choices, def)                                                        \
    {path, CONFIG_TYPE_##type, offsetof(struct config, field), lowest, highest, choices, def},
    CONFIG_KEYS(X)
#undef X
};

_Static_assert(CONFIG_KEY_COUNT <= CONFIG_TABLE_MAX, "a table has room for all keys");
static const struct config_table table = {config_keys, CONFIG_KEY_COUNT, PAGE, ""};

/* LISTEN stores through the host's offset. */
_Static_assert(offsetof(struct config, http) == offsetof(struct config, http.host), "http begins with host");

/* ---- messages ------------------------------------------------------------------------------------------------------------ */

/* Puts FILE:LINE (or "command line") before the message in l->e and returns ERR_CONFIG, or the code if memory ran out. */
int config_at_line(struct loader *l, int line, int rc)
{
    if (l->file)
        err_wrap(l->e, "%s:%d", l->file, line > 0 ? line : 1);
    else
        err_wrap(l->e, "command line");
    return rc;
}

int config_at_key(struct loader *l, enum config_key_id id, int rc)
{
    err_wrap(l->e, "%s", config_keys[id].path);
    return config_at_line(l, l->line[id], rc);
}

/* ---- values -------------------------------------------------------------------------------------------------------------- */

/* base + text → absolute, without "//", "/./" and a slash at the end. ".." stays: only the kernel knows where a symbolic link leads. */
static int absolute_path(const char *base, const char *text, char **out, struct err *e)
{
    if (!*text)
        return err_set(e, ERR_CONFIG, "an empty path");
    if (*text == '~')
        return err_set(e, ERR_CONFIG, "\"%.64s\": '~' is not expanded; write the whole path", text);
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return err_set(e, ERR_CONFIG, "a path with a control character in it");
    size_t size = strlen(base) + strlen(text) + 3;
    if (size > PATH_MAX)
        return err_set(e, ERR_CONFIG, "\"%.64s…\" is longer than %d bytes, the limit for a path", text, PATH_MAX);
    _cleanup_free_ char *in = malloc(size);
    char *path = malloc(size);
    if (!in || !path) {
        free(path);
        return err_errno(e, ENOMEM, "configuration");
    }
    stpcpy(stpcpy(stpcpy(in, *text == '/' ? "" : base), "/"), text);
    size_t n = 0;
    for (const char *p = in; *p;) {
        p += strspn(p, "/");
        size_t part = strcspn(p, "/");
        if (part && !(part == 1 && *p == '.')) {
            path[n++] = '/';
            memcpy(path + n, p, part);
            n += part;
        }
        p += part;
    }
    if (n == 0)
        path[n++] = '/';
    path[n] = 0;
    *out = path;
    return 0;
}

int config_absolute_path(struct loader *l, const char *text, char **out)
{
    return absolute_path(l->base, text, out, l->e);
}

/* Checks text and stores it in the field of key id. */
int config_set_value(struct loader *l, int id, const char *text)
{
    char *host = NULL;
    if (config_keys[id].type != CONFIG_TYPE_LISTEN)
        return config_set_scalar(&l->all, id, text);
    int rc = config_parse_listen(text, &host, &l->c->http.port, l->e);
    if (rc)
        return rc;
    char **slot = (char **)((char *)l->c + config_keys[id].offset);
    free(*slot);
    *slot = host;
    return 0;
}

/* ---- YAML events --------------------------------------------------------------------------------------------------------- */

int config_event_line(const yaml_event_t *ev)
{
    return (int)ev->start_mark.line + 1;
}

/* Of the parser's error. libyaml reads ahead: for bytes that are no text it knows only the offset. */
static int error_line(const struct loader *l)
{
    if (l->parser.error != YAML_READER_ERROR)
        return (int)l->parser.problem_mark.line + 1;
    int line = 1;
    for (size_t i = 0; i < l->text_len && i < l->parser.problem_offset; i++)
        line += l->text[i] == '\n';
    return line;
}

/* The next event; the caller deletes it. */
int config_next_event(struct loader *l, yaml_event_t *ev)
{
    if (!yaml_parser_parse(&l->parser, ev)) {
        const yaml_parser_t *p = &l->parser;
        if (p->error == YAML_MEMORY_ERROR)
            return err_errno(l->e, ENOMEM, "configuration");
        err_set(l->e, ERR_CONFIG, "not YAML: %s%s%s", p->problem ? p->problem : "syntax error", p->context ? " " : "",
                p->context ? p->context : "");
        return config_at_line(l, error_line(l), ERR_CONFIG);
    }
    if (ev->type == YAML_ALIAS_EVENT) {
        int line = config_event_line(ev);
        yaml_event_delete(ev);
        err_set(l->e, ERR_CONFIG, "aliases (*name) are not supported");
        return config_at_line(l, line, ERR_CONFIG);
    }
    return 0;
}

const char *config_event_kind(const yaml_event_t *ev)
{
    return ev->type == YAML_MAPPING_START_EVENT ? "a mapping" : ev->type == YAML_SEQUENCE_START_EVENT ? "a list" : "a single value";
}

bool config_is_null(const yaml_event_t *ev)
{
    if (ev->type != YAML_SCALAR_EVENT || ev->data.scalar.style != YAML_PLAIN_SCALAR_STYLE)
        return false;
    const char *s = (const char *)ev->data.scalar.value;
    return !*s || !strcmp(s, "~") || !strcmp(s, "null");
}

/* The text of a scalar, owned by ev; or NULL with a message without position: path must be what, and is not. */
const char *config_scalar_text(struct loader *l, const yaml_event_t *ev, const char *path)
{
    if (ev->type != YAML_SCALAR_EVENT)
        err_set(l->e, ERR_CONFIG, "\"%s\" must be a single value, not %s", path, config_event_kind(ev));
    else if (config_is_null(ev))
        err_set(l->e, ERR_CONFIG, "\"%s\" has no value", path);
    else if (strlen((const char *)ev->data.scalar.value) != ev->data.scalar.length)
        err_set(l->e, ERR_CONFIG, "\"%s\" has a NUL byte in its value", path);
    else
        return (const char *)ev->data.scalar.value;
    return NULL;
}

int config_unknown_key(struct loader *l, const char *path, int line, const char *const *candidates, int n, const char *page)
{
    const char *nearest = config_nearest(path, candidates, n);
    if (nearest)
        err_set(l->e, ERR_CONFIG, "unknown key \"%.80s\"; did you mean \"%s\"?", path, nearest);
    else
        err_set(l->e, ERR_CONFIG, "unknown key \"%.80s\"; %s lists them all", path, page);
    return config_at_line(l, line, ERR_CONFIG);
}

/* Reads "key" events until the end of a mapping. *key (at most size - 1 bytes of it) and its *line; 1, 0 at the end, or an error. */
int config_next_key(struct loader *l, const char *prefix, char *key, size_t size, int *line)
{
    yaml_event_t ev;
    int rc = config_next_event(l, &ev);
    if (rc)
        return rc;
    *line = config_event_line(&ev);
    if (ev.type == YAML_MAPPING_END_EVENT) {
        rc = 0;
    } else if (ev.type != YAML_SCALAR_EVENT) {
        err_set(l->e, ERR_CONFIG, "a key must be a word, not %s", config_event_kind(&ev));
        rc = config_at_line(l, *line, ERR_CONFIG);
    } else {
        snprintf(key, size, "%s%s%s", prefix, *prefix ? "." : "", (const char *)ev.data.scalar.value);
        rc = 1;
    }
    yaml_event_delete(&ev);
    return rc;
}

int config_given_twice(struct loader *l, const char *path, int line, int first)
{
    err_set(l->e, ERR_CONFIG, "\"%s\" is given twice (first in line %d)", path, first);
    return config_at_line(l, line, ERR_CONFIG);
}

/* One {name: …, url: …, proxy: …} of `nodes`; its MAPPING_START has been read. */
static int load_node(struct loader *l, int start_line)
{
    static const char *const fields[] = {"name", "url", "proxy"};
    struct config_node *node = &l->c->nodes[l->c->n_nodes];
    char **slots[] = {&node->name, &node->url, &node->proxy};
    int lines[ARRAY_SIZE(fields)] = {0};
    l->node_line[l->c->n_nodes++] = start_line;
    for (;;) {
        char key[96];
        int line;
        int rc = config_next_key(l, "", key, sizeof key, &line);
        if (rc < 0)
            return rc;
        if (rc == 0)
            break;
        size_t i = 0;
        while (i < ARRAY_SIZE(fields) && strcmp(key, fields[i]) != 0)
            i++;
        if (i == ARRAY_SIZE(fields))
            return config_unknown_key(l, key, line, fields, ARRAY_SIZE(fields), PAGE);
        if (lines[i])
            return config_given_twice(l, key, line, lines[i]);
        lines[i] = line;
        yaml_event_t ev;
        if ((rc = config_next_event(l, &ev)))
            return rc;
        int value_line = config_event_line(&ev);
        const char *text = config_scalar_text(l, &ev, key);
        if (!text)
            rc = config_at_line(l, value_line, ERR_CONFIG);
        else if ((rc = i == 0   ? config_parse_name(text, l->e)
                       : i == 1 ? config_parse_url(text, slots[i], l->e)
                                : config_parse_proxy_url(text, slots[i], l->e)))
            config_at_line(l, value_line, err_wrap(l->e, "nodes: %s", key));
        else if (i == 0 && !(*slots[0] = strdup(text)))
            rc = err_errno(l->e, ENOMEM, "configuration");
        yaml_event_delete(&ev);
        if (rc)
            return rc;
    }
    for (size_t i = 0; i < 2; i++)
        if (!lines[i]) {
            err_set(l->e, ERR_CONFIG, "nodes: an entry without \"%s\"; it looks like {name: a, url: http://host:port}", fields[i]);
            return config_at_line(l, start_line, ERR_CONFIG);
        }
    return 0;
}

static int load_nodes(struct loader *l)
{
    l->c->nodes = calloc(CONFIG_NODES_MAX, sizeof *l->c->nodes);
    if (!l->c->nodes)
        return err_errno(l->e, ENOMEM, "configuration");
    for (;;) {
        yaml_event_t ev;
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        yaml_event_type_t type = ev.type;
        int line = config_event_line(&ev);
        const char *kind = config_event_kind(&ev);
        yaml_event_delete(&ev);
        if (type == YAML_SEQUENCE_END_EVENT)
            return 0;
        if (type != YAML_MAPPING_START_EVENT) {
            err_set(l->e, ERR_CONFIG, "nodes: an entry must look like {name: a, url: http://host:port}; this is %s", kind);
            return config_at_line(l, line, ERR_CONFIG);
        }
        if (l->c->n_nodes == CONFIG_NODES_MAX) {
            err_set(l->e, ERR_CONFIG, "nodes: more than %d entries", CONFIG_NODES_MAX);
            return config_at_line(l, line, ERR_CONFIG);
        }
        if ((rc = load_node(l, line)))
            return rc;
    }
}

/* The value of config_keys[id], whose key stood in key_line. */
static int load_value(struct config_mapping *m, int id, int key_line)
{
    struct loader *l = m->l;
    if (l->line[id])
        return config_given_twice(l, config_keys[id].path, key_line, l->line[id]);
    yaml_event_t ev;
    int rc = config_next_event(l, &ev);
    if (rc)
        return rc;
    int value_line = config_is_null(&ev) ? key_line : config_event_line(&ev);
    l->line[id] = value_line;
    if (config_keys[id].type == CONFIG_TYPE_NODES || config_keys[id].type == CONFIG_TYPE_PROXIES) {
        bool nodes = config_keys[id].type == CONFIG_TYPE_NODES;
        if (ev.type == YAML_SEQUENCE_START_EVENT) {
            yaml_event_delete(&ev);
            return nodes ? load_nodes(l) : config_load_proxies(l);
        }
        err_set(l->e, ERR_CONFIG, "\"%s\" must be a list of %s, not %s", config_keys[id].path,
                nodes ? "{name: a, url: http://host:port}" : "{listen: HOST:PORT, target: HOST:PORT, …}", config_event_kind(&ev));
        rc = config_at_line(l, value_line, ERR_CONFIG);
    } else if (id == CONFIG_KEY_SYNC_DATABASES && ev.type == YAML_MAPPING_START_EVENT) {
        rc = config_load_sync(l, config_keys[id].path, GLOBS_MAX);
    } else if (config_keys[id].type == CONFIG_TYPE_ENDPOINTS || config_keys[id].type == CONFIG_TYPE_GLOBS) {
        bool urls = config_keys[id].type == CONFIG_TYPE_ENDPOINTS;
        if (ev.type == YAML_SEQUENCE_START_EVENT) {
            rc = config_load_list(l, config_keys[id].path, urls ? ENDPOINTS_MAX : GLOBS_MAX, urls ? config_parse_proxy_url : config_parse_glob,
                                  (struct config_list *)(void *)((char *)l->c + config_keys[id].offset));
        } else {
            err_set(l->e, ERR_CONFIG, "\"%s\" must be a list of %s, not %s", config_keys[id].path,
                    urls ? "http://HOST:PORT" : id == CONFIG_KEY_SYNC_DATABASES ? "patterns, or a mapping of patterns to numbers" : "patterns", config_event_kind(&ev));
            rc = config_at_line(l, value_line, ERR_CONFIG);
        }
    } else {
        const char *text = config_scalar_text(l, &ev, config_keys[id].path);
        if (!text)
            rc = config_at_line(l, value_line, ERR_CONFIG);
        else if ((rc = config_set_value(l, id, text)))
            config_at_key(l, (enum config_key_id)id, rc);
    }
    yaml_event_delete(&ev);
    return rc;
}

/* Everything from STREAM_START to STREAM_END. An empty file, or one with comments only, is a good one. */
static int load_stream(struct loader *l)
{
    int documents = 0;
    for (;;) {
        yaml_event_t ev;
        int rc = config_next_event(l, &ev);
        if (rc)
            return rc;
        yaml_event_type_t type = ev.type;
        int line = config_event_line(&ev);
        bool empty = config_is_null(&ev);
        const char *kind = config_event_kind(&ev);
        yaml_event_delete(&ev);
        if (type == YAML_STREAM_END_EVENT)
            return 0;
        if (type == YAML_DOCUMENT_START_EVENT && documents++) {
            err_set(l->e, ERR_CONFIG, "a second document; one file configures one node");
            return config_at_line(l, line, ERR_CONFIG);
        }
        if (type == YAML_MAPPING_START_EVENT) {
            if ((rc = config_read_mapping(&l->all, "")))
                return rc;
        } else if ((type == YAML_SCALAR_EVENT && !empty) || type == YAML_SEQUENCE_START_EVENT) {
            err_set(l->e, ERR_CONFIG, "the file must be a mapping (key: value), not %s", kind);
            return config_at_line(l, line, ERR_CONFIG);
        }
    }
}

static int load_file(struct loader *l)
{
    _cleanup_free_ char *text = malloc(CONFIG_FILE_MAX + 1);
    if (!text)
        return err_errno(l->e, ENOMEM, "configuration");
    FILE *f = fopen(l->file, "re");
    if (!f)
        return err_errno(l->e, errno, "%s", l->file);
    errno = 0;
    size_t n = fread(text, 1, CONFIG_FILE_MAX + 1, f);
    int failed = ferror(f) ? (errno ? errno : EIO) : 0;
    (void)fclose(f); /* nothing was written */
    if (failed)
        return err_errno(l->e, failed, "%s", l->file);
    if (n > CONFIG_FILE_MAX)
        return err_set(l->e, ERR_CONFIG, "%s:1: larger than %zu bytes; this is no configuration file", l->file, CONFIG_FILE_MAX);
    if (!yaml_parser_initialize(&l->parser))
        return err_errno(l->e, ENOMEM, "configuration");
    l->text = text;
    l->text_len = n;
    yaml_parser_set_input_string(&l->parser, (const unsigned char *)text, n);
    int rc = load_stream(l);
    yaml_parser_delete(&l->parser);
    l->text = NULL;
    return rc;
}

/* ---- command line -------------------------------------------------------------------------------------------------------- */

int config_take_args(int argc, char **argv, struct config_args *args, struct err *e)
{
    struct config_args got = {0};
    const struct {
        const char *name;
        const char **slot;
    } options[] = {{"-c", &got.file}, {"--dir", &got.dir}, {"--data", &got.data}, {"--node", &got.node}};
    int kept = argc > 0 ? 1 : 0;
    bool program_args = false;
    for (int i = kept; i < argc; i++) {
        const char *value = NULL;
        size_t o = 0;
        for (; !program_args && o < ARRAY_SIZE(options); o++) {
            size_t n = strlen(options[o].name);
            if (strncmp(argv[i], options[o].name, n))
                continue;
            bool is_long = options[o].name[1] == '-';
            if (argv[i][n] && (!is_long || argv[i][n] == '='))
                value = argv[i] + n + is_long;
            if (value || !argv[i][n])
                break;
        }
        if (program_args || o == ARRAY_SIZE(options)) {
            program_args = program_args || !strcmp(argv[i], "--");
            argv[kept++] = argv[i];
            continue;
        }
        if (!value && i + 1 < argc && strcmp(argv[i + 1], "--"))
            value = argv[++i];
        if (!value || !*value)
            return err_set(e, -EINVAL, "%s needs a value", options[o].name);
        if (*options[o].slot)
            return err_set(e, -EINVAL, "%s is given twice", options[o].name);
        *options[o].slot = value;
    }
    if (kept < argc)
        argv[kept] = NULL;
    *args = got;
    return kept;
}

/* Settings of the command line stand above the file's; paths are relative to the working directory. */
static int load_args(struct loader *l, const struct config_args *args)
{
    const struct {
        enum config_key_id id;
        const char *option, *text;
    } set[] = {{CONFIG_KEY_DIR, "--dir", args->dir}, {CONFIG_KEY_DATA, "--data", args->data}, {CONFIG_KEY_NODE, "--node", args->node}};
    for (size_t i = 0; i < ARRAY_SIZE(set); i++) {
        int rc = set[i].text ? config_set_value(l, (int)set[i].id, set[i].text) : 0;
        if (rc) {
            err_wrap(l->e, "command line: %s", set[i].option);
            return rc;
        }
        if (set[i].text)
            l->line[set[i].id] = 0;
    }
    return 0;
}

/* ---- whole --------------------------------------------------------------------------------------------------------------- */

static int load_defaults(struct loader *l)
{
    for (int i = 0; i < CONFIG_KEY_COUNT; i++) {
        int rc = config_keys[i].def ? config_set_value(l, i, config_keys[i].def) : 0;
        if (rc)
            return rc;
    }
    l->c->fs.allow_other = geteuid() == 0;
    return 0;
}

/* l->base for a file: its folder; cwd for arguments. */
static int base_of_file(const char *cwd, const char *file, char **base, struct err *e)
{
    const char *slash = file ? strrchr(file, '/') : NULL;
    if (!slash) {
        *base = strdup(cwd);
        return *base ? 0 : err_errno(e, ENOMEM, "configuration");
    }
    _cleanup_free_ char *folder = slash == file ? strdup("/") : strndup(file, (size_t)(slash - file));
    if (!folder)
        return err_errno(e, ENOMEM, "configuration");
    int rc = absolute_path(cwd, folder, base, e);
    return rc ? err_wrap(e, "%s:1", file) : 0;
}

static int load_all(struct loader *l, const struct config_args *args)
{
    int rc;
    char cwd[PATH_MAX];
    if (!getcwd(cwd, sizeof cwd))
        return err_errno(l->e, errno, "working directory");
    if ((rc = base_of_file(cwd, args->file, &l->base, l->e)) || (rc = load_defaults(l)) || (l->file && (rc = load_file(l))))
        return rc;
    free(l->base);
    if (!(l->base = strdup(cwd)))
        return err_errno(l->e, ENOMEM, "configuration");
    rc = load_args(l, args);
    return rc ? rc : config_complete(l);
}

int config_load(const struct config_args *args, struct config **out, struct err *e)
{
    struct err own;
    struct loader l = {.e = e ? e : &own, .file = args->file};
    l.c = calloc(1, sizeof *l.c);
    if (!l.c)
        return err_errno(e, ENOMEM, "configuration");
    l.all = (struct config_mapping){.l = &l, .table = &table, .object = l.c, .line = l.line, .section = l.section, .value = load_value};
    int rc = load_all(&l, args);
    free(l.base);
    if (rc) {
        config_free(l.c);
        return rc;
    }
    *out = l.c;
    return 0;
}

void config_free(struct config *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->n_nodes; i++) {
        free(c->nodes[i].name);
        free(c->nodes[i].url);
        free(c->nodes[i].proxy);
    }
    free(c->nodes);
    config_free_proxies(c);
    free(c->node);
    free(c->dir);
    free(c->data);
    free(c->http.host);
    free(c->http.advertise);
    free(c->token_file);
    free(c->lease.primary);
    config_free_list(&c->lease.endpoints);
    config_free_list(&c->databases.include);
    config_free_list(&c->databases.exclude);
    free(c->upstream);
    config_free_list(&c->sync.databases);
    free(c->sync.numbers);
    free(c->lease.cluster);
    free(c->lease.ca_file);
    free(c->lease.cert_file);
    free(c->lease.key_file);
    free(c->lease.user);
    free(c->lease.password_file);
    free(c);
}

bool config_partial(const struct config *c)
{
    return c->databases.include.n || c->databases.exclude.n;
}

const struct config_node *config_node(const struct config *c, const char *name)
{
    for (int i = 0; i < c->n_nodes; i++)
        if (!strcmp(c->nodes[i].name, name))
            return &c->nodes[i];
    return NULL;
}

void config_die(const char *program, const struct err *e)
{
    fprintf(stderr, "%s: %s\n", program, e->text);
    exit(2);
}
