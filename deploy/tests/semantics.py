"""What an API server refuses and no schema says, and what this project demands
of its own manifests. Each check yields sentences that name the object."""

import re

RESTART_POLICIES = {"Never", "OnFailure"}
COMPLETION_MODES = {"Indexed", "NonIndexed"}
POLICY_ACTIONS = {"FailJob", "FailIndex", "Ignore", "Count"}
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# Exit codes that mean a durable checkpoint, and those that trying again cannot mend.
IGNORED_EXITS = [75]
FATAL_EXITS = [64, 65, 77, 93]


def problems(objects):
    """Everything that is wrong with the objects of one rendered directory."""
    for item in objects:
        name = f"{item['kind']} {item['metadata']['name']}"
        yield from (f"{name}: {problem}" for problem in check_object(item))
    yield from check_references(objects)


def check_object(item):
    name = item["metadata"]["name"]
    if not DNS_LABEL.fullmatch(name):
        yield f"its name {name!r} is no DNS label"
    if item["kind"] == "Job":
        yield from check_job(item["spec"])
        yield from check_pod(item["spec"]["template"]["spec"])


def check_job(spec):
    pod = spec["template"]["spec"]
    mode = spec.get("completionMode", "NonIndexed")
    if mode not in COMPLETION_MODES:
        yield f"completionMode {mode!r} is none of {sorted(COMPLETION_MODES)}"
    if mode == "Indexed" and "completions" not in spec:
        yield "an indexed Job needs completions"
    if spec.get("parallelism", 1) < spec.get("completions", 1):
        yield "all ranks must run at once: parallelism is below completions"
    policy = pod.get("restartPolicy", "Always")
    if policy not in RESTART_POLICIES:
        yield f"restartPolicy {policy!r} is none that a Job can have"
    if "podFailurePolicy" in spec:
        if policy != "Never":
            yield "a podFailurePolicy needs restartPolicy Never"
        if spec.get("podReplacementPolicy", "Failed") != "Failed":
            yield "a podFailurePolicy needs podReplacementPolicy Failed"
    yield from check_failure_policy(spec)
    for key in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
        if key not in spec:
            yield f"{key} must be set"


def check_failure_policy(spec):
    rules = spec.get("podFailurePolicy", {}).get("rules", [])
    containers = {container["name"] for container in spec["template"]["spec"]["containers"]}
    exits = {}
    for rule in rules:
        if rule["action"] not in POLICY_ACTIONS:
            yield f"action {rule['action']!r} is none of {sorted(POLICY_ACTIONS)}"
        codes = rule.get("onExitCodes")
        if codes is None:
            continue
        if codes.get("containerName") not in containers:
            yield f"a rule names container {codes.get('containerName')!r}, which is not there"
        if codes["values"] != sorted(set(codes["values"])):
            yield f"exit codes {codes['values']} must be sorted and named once"
        exits[rule["action"]] = codes["values"]
    if not any("onPodConditions" in rule and rule["action"] == "Ignore" for rule in rules):
        yield "a disruption must not count as a failure"
    if exits != {"Ignore": IGNORED_EXITS, "FailJob": FATAL_EXITS}:
        yield f"exit codes are treated as {exits}"


def check_pod(pod):
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    seen = set()
    for container in pod["containers"]:
        name = container["name"]
        if not DNS_LABEL.fullmatch(name) or name in seen:
            yield f"container name {name!r} is no DNS label or is there twice"
        seen.add(name)
        if not container.get("image"):
            yield f"container {name} has no image"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"container {name} mounts {mount['name']!r}, which is no volume"
        yield from check_restricted(pod, container)
        yield from check_resources(container)
    if pod.get("automountServiceAccountToken", True):
        yield "pods get no token: automountServiceAccountToken must be false"
    if pod.get("terminationGracePeriodSeconds", 30) < 120:
        yield "the grace period must be long enough for a step and a checkpoint"


def check_restricted(pod, container):
    """The Pod Security Standard "restricted", and a file system that cannot be written."""
    outer, inner = pod.get("securityContext", {}), container.get("securityContext", {})
    wanted = [
        (outer.get("runAsNonRoot"), True, "runAsNonRoot"),
        (outer.get("seccompProfile", {}).get("type"), "RuntimeDefault", "seccompProfile"),
        (inner.get("allowPrivilegeEscalation"), False, "allowPrivilegeEscalation"),
        (inner.get("readOnlyRootFilesystem"), True, "readOnlyRootFilesystem"),
        (inner.get("capabilities", {}).get("drop"), ["ALL"], "capabilities.drop"),
    ]
    for found, expected, key in wanted:
        if found != expected:
            yield f"container {container['name']}: {key} is {found!r}, expected {expected!r}"
    if not outer.get("runAsUser"):
        yield "runAsUser must be a number above 0"


def check_resources(container):
    resources = container.get("resources", {})
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    if requests != limits:
        yield f"container {container['name']}: requests and limits differ"
    for key in ("cpu", "memory", "ephemeral-storage"):
        if key not in limits:
            yield f"container {container['name']}: no limit of {key}"


def check_references(objects):
    """Names that one object uses and another must have."""
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    pods = [item["spec"]["template"] for item in objects if item["kind"] == "Job"]
    for pod in pods:
        for volume in pod["spec"].get("volumes", []):
            if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in there:
                yield f"volume {volume['name']}: no such ConfigMap"
            claim = volume.get("persistentVolumeClaim")
            if claim and ("PersistentVolumeClaim", claim["claimName"]) not in there:
                yield f"volume {volume['name']}: no claim {claim['claimName']}"
    for item in objects:
        if item["kind"] == "Service":
            yield from check_service(item, pods)


def check_service(service, pods):
    selector = service["spec"]["selector"].items()
    chosen = [pod for pod in pods if selector <= pod["metadata"].get("labels", {}).items()]
    name = service["metadata"]["name"]
    if len(chosen) != 1:
        yield f"Service {name} selects the pods of {len(chosen)} Jobs, expected one"
    for pod in chosen:
        ports = {port["name"] for each in pod["spec"]["containers"] for port in each.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"Service {name}: no container has a port named {port['targetPort']!r}"
