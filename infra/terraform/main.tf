# The bucket of llmaug, and who may do what in it. `terraform init && terraform apply`, with
# -var bucket=...; on EKS also -var oidc_provider_arn=... (IRSA). See infra/README.md.

terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 6.0"
    }
  }
}

variable "bucket" {
  description = "Name of the bucket, which is made."
  type        = string
}

variable "prefix" {
  description = "Folder of llmaug's root in the bucket: --root s3://BUCKET/PREFIX."
  type        = string
  default     = "llmaug"
}

variable "oidc_provider_arn" {
  description = "OIDC provider of the EKS cluster whose pods take the roles; empty: EC2 machines do."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "Kubernetes namespace of the service accounts."
  type        = string
  default     = "llmaug"
}

variable "keep_runs_days" {
  description = "Days after which what a run wrote goes: more than `llmaug gc` keeps, as its safety net."
  type        = number
  default     = 60
}

locals {
  on_eks = var.oidc_provider_arn != ""
  # arn:aws:iam::111122223333:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/EXAMPLE
  issuer = local.on_eks ? split("oidc-provider/", var.oidc_provider_arn)[1] : ""
  # The rights of a job stand in one place: s3-policy.json, for the root s3://example-bucket/llmaug.
  # A substring between slashes would be a regular expression to replace().
  shipped    = file("${path.module}/../s3-policy.json")
  of_prefix  = replace(replace(local.shipped, "example-bucket/llmaug", "example-bucket/${var.prefix}"), "\"llmaug", "\"${var.prefix}")
  job_policy = replace(local.of_prefix, "example-bucket", var.bucket)
}

# -- the bucket -------------------------------------------------------------------------------

resource "aws_s3_bucket" "root" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "root" {
  bucket                  = aws_s3_bucket.root.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "root" {
  bucket = aws_s3_bucket.root.id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "root" {
  bucket = aws_s3_bucket.root.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm = "AES256"
    }
  }
}

resource "aws_s3_bucket_versioning" "root" {
  bucket = aws_s3_bucket.root.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_lifecycle_configuration" "root" {
  bucket     = aws_s3_bucket.root.id
  depends_on = [aws_s3_bucket_versioning.root]

  rule {
    id     = "what is overwritten or deleted can be had back for a week"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration {
      noncurrent_days = 7
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 2
    }
  }

  rule {
    id     = "runs are not kept for ever"
    status = "Enabled"
    filter {
      prefix = "${var.prefix}/runs/"
    }
    expiration {
      days = var.keep_runs_days
    }
  }
}

resource "aws_s3_bucket_policy" "root" {
  bucket     = aws_s3_bucket.root.id
  depends_on = [aws_s3_bucket_public_access_block.root]
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "NothingWithoutTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.root.arn, "${aws_s3_bucket.root.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

# -- the roles --------------------------------------------------------------------------------

data "aws_iam_policy_document" "trust" {
  for_each = toset(["llmaug", "llmaug-reader"])
  statement {
    actions = [local.on_eks ? "sts:AssumeRoleWithWebIdentity" : "sts:AssumeRole"]
    principals {
      type        = local.on_eks ? "Federated" : "Service"
      identifiers = [local.on_eks ? var.oidc_provider_arn : "ec2.amazonaws.com"]
    }
    dynamic "condition" {
      for_each = local.on_eks ? { sub = "system:serviceaccount:${var.namespace}:${each.key}", aud = "sts.amazonaws.com" } : {}
      content {
        test     = "StringEquals"
        variable = "${local.issuer}:${condition.key}"
        values   = [condition.value]
      }
    }
  }
}

# A night: reads the logs, writes below the root.
resource "aws_iam_role" "job" {
  name               = "llmaug"
  assume_role_policy = data.aws_iam_policy_document.trust["llmaug"].json
}

resource "aws_iam_role_policy" "job" {
  name   = "root"
  role   = aws_iam_role.job.id
  policy = local.job_policy
}

# What serves the model, or looks at the logs: reads both, writes nothing, and sees no run.
resource "aws_iam_role" "reader" {
  name               = "llmaug-reader"
  assume_role_policy = data.aws_iam_policy_document.trust["llmaug-reader"].json
}

resource "aws_iam_role_policy" "reader" {
  name = "logs-and-published"
  role = aws_iam_role.reader.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid      = "ListLogsAndPublished"
        Effect   = "Allow"
        Action   = "s3:ListBucket"
        Resource = aws_s3_bucket.root.arn
        Condition = {
          StringLike = { "s3:prefix" = ["${var.prefix}/logs/*", "${var.prefix}/published/*"] }
        }
      },
      {
        Sid    = "ReadLogsAndPublished"
        Effect = "Allow"
        Action = "s3:GetObject"
        Resource = [
          "${aws_s3_bucket.root.arn}/${var.prefix}/logs/*",
          "${aws_s3_bucket.root.arn}/${var.prefix}/published/*",
        ]
      },
    ]
  })
}

# EC2 machines of cluster.yaml carry the job's role by its profile.
resource "aws_iam_instance_profile" "worker" {
  count = local.on_eks ? 0 : 1
  name  = "llmaug-worker"
  role  = aws_iam_role.job.name
}

output "root" {
  description = "What --root is."
  value       = "s3://${aws_s3_bucket.root.id}/${var.prefix}"
}

output "job_role_arn" {
  description = "For the annotation of the service account in k8s/namespace.yaml."
  value       = aws_iam_role.job.arn
}
