# The bucket of an artifact store and the rights of those who run pipelines on it.
#
#     terraform apply -var bucket=my-llavaflow

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.0"
    }
  }
}

variable "bucket" {
  type        = string
  description = "Name of the bucket; the store is s3://NAME/llavaflow."
}

resource "aws_s3_bucket" "store" {
  bucket = var.bucket

  lifecycle {
    # checkpoints and the lineage of everything made from them
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id

  # parts of an upload whose run was killed and never came back
  rule {
    id     = "cut-uploads"
    status = "Enabled"
    filter {}

    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

data "aws_iam_policy_document" "run" {
  statement {
    actions   = ["s3:ListBucket"]
    resources = [aws_s3_bucket.store.arn]
  }

  # leases are deleted when a stage is done, and nothing else is
  statement {
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    resources = ["${aws_s3_bucket.store.arn}/*"]
  }
}

resource "aws_iam_policy" "run" {
  name   = "${var.bucket}-run"
  policy = data.aws_iam_policy_document.run.json
}

output "store" {
  value = "s3://${aws_s3_bucket.store.id}/llavaflow"
}
