/* A microphone for ALSA that knows one rate and one form of samples, and has one user at a time; it hears silence.

   pcm_type.picky { lib "/where/it/is/picky.so" }
   pcm.studio { type picky rate 96000 format S16_LE held "/a/file/to/lock" }
*/

#include <alsa/asoundlib.h>
#include <alsa/pcm_external.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    snd_pcm_ioplug_t io;
    unsigned int rate;
    int lock; /* of whoever has it open */
    struct timespec started;
} picky_t;

static int start(snd_pcm_ioplug_t *io)
{
    picky_t *picky = io->private_data;
    long period_ns = (long)(io->period_size * 1000000000ull / picky->rate);
    struct itimerspec every = {{0, period_ns}, {0, period_ns}};

    clock_gettime(CLOCK_MONOTONIC, &picky->started);
    return timerfd_settime(io->poll_fd, 0, &every, NULL) < 0 ? -errno : 0;
}

static int stop(snd_pcm_ioplug_t *io)
{
    struct itimerspec never = {{0, 0}, {0, 0}};

    return timerfd_settime(io->poll_fd, 0, &never, NULL) < 0 ? -errno : 0;
}

static snd_pcm_sframes_t pointer(snd_pcm_ioplug_t *io)
{
    picky_t *picky = io->private_data;
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    long long ns = (now.tv_sec - picky->started.tv_sec) * 1000000000ll + now.tv_nsec - picky->started.tv_nsec;
    return (snd_pcm_sframes_t)(ns * picky->rate / 1000000000ll % io->buffer_size);
}

static snd_pcm_sframes_t transfer(
    snd_pcm_ioplug_t *io, const snd_pcm_channel_area_t *areas, snd_pcm_uframes_t offset, snd_pcm_uframes_t size)
{
    snd_pcm_areas_silence(areas, offset, io->channels, size, io->format);
    return size;
}

static int poll_revents(snd_pcm_ioplug_t *io, struct pollfd *pfd, unsigned int count, unsigned short *revents)
{
    unsigned long long ticks;

    (void)count;
    *revents = pfd->revents;
    if (pfd->revents & POLLIN && read(io->poll_fd, &ticks, sizeof ticks) < 0)
        *revents = 0;
    return 0;
}

static int picky_close(snd_pcm_ioplug_t *io)
{
    picky_t *picky = io->private_data;

    close(io->poll_fd);
    close(picky->lock);
    free(picky);
    return 0;
}

static const snd_pcm_ioplug_callback_t CALLBACKS = {
    .start = start,
    .stop = stop,
    .pointer = pointer,
    .transfer = transfer,
    .poll_revents = poll_revents,
    .close = picky_close,
};

SND_PCM_PLUGIN_DEFINE_FUNC(picky)
{
    snd_config_t *field;
    const char *format_name, *held;
    long rate;
    int error;

    (void)root;
    if ((error = snd_config_search(conf, "rate", &field)) < 0 || (error = snd_config_get_integer(field, &rate)) < 0
        || (error = snd_config_search(conf, "format", &field)) < 0
        || (error = snd_config_get_string(field, &format_name)) < 0
        || (error = snd_config_search(conf, "held", &field)) < 0 || (error = snd_config_get_string(field, &held)) < 0)
        return error;
    if (stream != SND_PCM_STREAM_CAPTURE)
        return -ENXIO;

    picky_t *picky = calloc(1, sizeof *picky);
    if (picky == NULL)
        return -ENOMEM;
    picky->rate = (unsigned int)rate;
    picky->lock = open(held, O_RDONLY | O_CLOEXEC);
    if (picky->lock < 0 || flock(picky->lock, LOCK_EX | LOCK_NB) < 0) {
        error = errno == EWOULDBLOCK ? -EBUSY : -errno;
        close(picky->lock);
        free(picky);
        return error;
    }
    picky->io.version = SND_PCM_IOPLUG_VERSION;
    picky->io.name = "a picky microphone";
    picky->io.callback = &CALLBACKS;
    picky->io.private_data = picky;
    picky->io.poll_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    picky->io.poll_events = POLLIN;
    if ((error = snd_pcm_ioplug_create(&picky->io, name, stream, mode)) < 0) {
        picky_close(&picky->io);
        return error;
    }

    unsigned int access = SND_PCM_ACCESS_RW_INTERLEAVED;
    unsigned int format = (unsigned int)snd_pcm_format_value(format_name);
    if ((error = snd_pcm_ioplug_set_param_list(&picky->io, SND_PCM_IOPLUG_HW_ACCESS, 1, &access)) < 0
        || (error = snd_pcm_ioplug_set_param_list(&picky->io, SND_PCM_IOPLUG_HW_FORMAT, 1, &format)) < 0
        || (error = snd_pcm_ioplug_set_param_minmax(&picky->io, SND_PCM_IOPLUG_HW_CHANNELS, 1, 1)) < 0
        || (error = snd_pcm_ioplug_set_param_minmax(&picky->io, SND_PCM_IOPLUG_HW_RATE, picky->rate, picky->rate)) < 0
        || (error = snd_pcm_ioplug_set_param_minmax(&picky->io, SND_PCM_IOPLUG_HW_PERIODS, 2, 64)) < 0) {
        snd_pcm_ioplug_delete(&picky->io);
        return error;
    }
    *pcmp = picky->io.pcm;
    return 0;
}

SND_PCM_PLUGIN_SYMBOL(picky);
