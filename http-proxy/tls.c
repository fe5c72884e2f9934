#include "http-proxy/engine.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

static int failed(SSL_CTX *ctx, struct err *e, const char *what)
{
    char text[256] = "out of memory";
    unsigned long code = ERR_peek_last_error();
    if (code)
        ERR_error_string_n(code, text, sizeof text);
    ERR_clear_error();
    SSL_CTX_free(ctx);
    return err_set(e, ERR_CONFIG, "%s: %s", what, text);
}

static SSL_CTX *context(const SSL_METHOD *method)
{
    SSL_CTX *ctx = SSL_CTX_new(method);
    if (!ctx)
        return NULL;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    return ctx;
}

static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg)
{
    (void)ssl;
    (void)arg;
    for (unsigned i = 0; i < in_len; i += in[i] + 1u)
        if (in[i] == 8 && i + 9 <= in_len && !memcmp(in + i + 1, "http/1.1", 8)) {
            *out = in + i + 1;
            *out_len = 8;
            return SSL_TLSEXT_ERR_OK;
        }
    return SSL_TLSEXT_ERR_ALERT_FATAL; /* a client that asks for HTTP/2 alone would not understand us */
}

int tls_server(const struct config_proxy *c, struct ssl_ctx_st **out, struct err *e)
{
    *out = NULL;
    if (!c->tls.certificate)
        return 0;
    SSL_CTX *ctx = context(TLS_server_method());
    if (!ctx)
        return failed(ctx, e, "TLS");
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    if (SSL_CTX_use_certificate_chain_file(ctx, c->tls.certificate) != 1)
        return failed(ctx, e, c->tls.certificate);
    if (SSL_CTX_use_PrivateKey_file(ctx, c->tls.key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        return failed(ctx, e, c->tls.key);
    *out = ctx;
    return 0;
}

int tls_client(const struct config_proxy *c, struct ssl_ctx_st **out, struct err *e)
{
    SSL_CTX *ctx = context(TLS_client_method());
    *out = NULL;
    if (!ctx || SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x08http/1.1", 9))
        return failed(ctx, e, "TLS");
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    if (c->peer_tls.ca ? SSL_CTX_load_verify_file(ctx, c->peer_tls.ca) != 1 : SSL_CTX_set_default_verify_paths(ctx) != 1)
        return failed(ctx, e, c->peer_tls.ca ? c->peer_tls.ca : "the system's certificates");
    *out = ctx;
    return 0;
}
